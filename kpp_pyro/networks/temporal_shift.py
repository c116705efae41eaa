"""Temporal shift (Lin et al. 2019): images of an episode exchange channels with their neighbours at no cost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpp_pyro.networks.interface import EPISODE_ENCODERS, EpisodeEncoder, ImageShape, NetworkFamily


def temporal_shift(features: Tensor, fraction: float = 1 / 8) -> Tensor:
    """Replace a fraction of the channels by those of the previous image, and as many by those of the next.

    The first and the last image have no previous or next image: their channels are zero.

    Args:
        features: (B, T, C, ...).
        fraction: share of the C channels that is replaced from each side, 0 (off) to 1/2.

    Returns:
        Features of the same shape.
    """
    if fraction == 0:
        return features  # which need not have an axis of images
    channels = int(features.shape[2] * fraction)
    if channels == 0:
        return features
    ends = torch.zeros_like(features[:, :1, :channels])
    previous = torch.cat([ends, features[:, :-1, :channels]], 1)
    following = torch.cat([features[:, 1:, channels : 2 * channels], ends], 1)
    return torch.cat([previous, following, features[:, :, 2 * channels :]], 2)


def _independent(family: NetworkFamily, image_shape: ImageShape, width: int, depth: int, _shift: float) -> nn.Module:
    return family.encoder(image_shape, width, depth, 0.0)


def _shifting(family: NetworkFamily, image_shape: ImageShape, width: int, depth: int, shift: float) -> nn.Module:
    return family.encoder(image_shape, width, depth, shift)


EPISODE_ENCODERS["independent"] = EpisodeEncoder(_independent)
EPISODE_ENCODERS["temporal_shift"] = EpisodeEncoder(_shifting, shifts=True)
