"""What is registered of networks: families of an encoder and a decoder, and what an encoder sees of other images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

ImageShape = tuple[int, int, int]  # (C, H, W)


@dataclass(frozen=True)
class NetworkFamily:
    """An encoder and a decoder, and their sizes.

    Attributes:
        encoder: of (image_shape, width, depth, shift_fraction): episodes (B, T, C, H, W) to features (B, T, F), with an
            `encoding_size`, F.
        decoder: of (latent_size, image_shape, width, depth): latents (..., D) to logits (..., C, H, W).
        sizes: width and depth by the name of a preset: tiny, small, medium, base.
        width_multiple: of which widths have to be multiples.
    """

    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]
    sizes: Mapping[str, tuple[int, int]]
    width_multiple: int = 1


@dataclass(frozen=True)
class EpisodeEncoder:
    """What an encoding knows of the other images of its episode.

    Attributes:
        build: of (family, image_shape, width, depth, shift_fraction): an encoder.
        width_multiple: of which widths have to be multiples.
    """

    build: Callable[[NetworkFamily, ImageShape, int, int, float], nn.Module]
    width_multiple: int = 1


NETWORKS: dict[str, NetworkFamily] = {}
"""Families of networks by name; the file of each one registers it."""
EPISODE_ENCODERS: dict[str, EpisodeEncoder] = {}
"""What an encoding may know of other images, by name; likewise."""
