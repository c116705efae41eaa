"""Registries of network families (an encoder and a decoder) and of episode encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

ImageShape = tuple[int, int, int]  # (C, H, W)


@dataclass(frozen=True)
class NetworkFamily:
    """A registered family: an encoder and a decoder, with preset sizes.

    Attributes:
        encoder: builds, from (image_shape, width, depth, shift_fraction), a module from episodes (B, T, C, H, W) to
            features (B, T, F), with the attribute `encoding_size` = F.
        decoder: builds, from (latent_size, image_shape, width, depth), a module from latents (..., D) to logits
            (..., C, H, W).
        sizes: (width, depth) by the name of a size: tiny, small, medium, base.
        width_multiple: widths must be multiples of it.
        is_code: whether encodings start as a code of the pixels, whose first D numbers are what contents start as.
    """

    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]
    sizes: Mapping[str, tuple[int, int]]
    width_multiple: int = 1
    is_code: bool = False


@dataclass(frozen=True)
class EpisodeEncoder:
    """A registered way in which the encoding of an image depends on the other images of its episode.

    Attributes:
        build: builds an encoder from (family, image_shape, width, depth, shift_fraction).
        width_multiple: widths must be multiples of it.
        shifts: whether it uses `shift_fraction`.
    """

    build: Callable[[NetworkFamily, ImageShape, int, int, float], nn.Module]
    width_multiple: int = 1
    shifts: bool = False


NETWORKS: dict[str, NetworkFamily] = {}
"""Families of networks by name; each is registered by its own file."""
EPISODE_ENCODERS: dict[str, EpisodeEncoder] = {}
"""Episode encoders by name; each is registered by its own file."""
