"""Corruptions of independent pixels, and of rectangles of pixels. All take images (..., C, H, W) in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpp_pyro.corruptions.interface import CORRUPTIONS, Corrupted, Corruption


def salt_and_pepper(images: Tensor, strength: float, generator: torch.Generator | None) -> Corrupted:
    """Make a share `strength` of the pixels black or white, in all channels, with equal probability."""
    pixels = (*images.shape[:-3], 1, *images.shape[-2:])
    chosen = _uniform(pixels, images, generator) < strength
    salt = (_uniform(pixels, images, generator) < 0.5).to(images)
    return _clipped(torch.where(chosen, salt, images))


def speckle(images: Tensor, strength: float, generator: torch.Generator | None) -> Corrupted:
    """x (1 + s n), n ~ N(0, 1), with s = `strength`."""
    return _clipped(images * (1 + strength * _normal(images, generator)))


def gaussian(images: Tensor, strength: float, generator: torch.Generator | None) -> Corrupted:
    """x + s n, n ~ N(0, 1), with s = `strength`."""
    return _clipped(images + strength * _normal(images, generator))


def poisson(images: Tensor, strength: float, generator: torch.Generator | None) -> Corrupted:
    """s Poisson(x / s), with s = `strength`: x / s photons on average."""
    device = images.device if generator is None else generator.device
    photons = torch.poisson((images / strength).to(device), generator=generator).to(images)
    return _clipped(photons * strength)


def mask(images: Tensor, strength: float, generator: torch.Generator | None) -> Corrupted:
    """Hide a rectangle at a random place: a share `strength` of the area, with the image's proportions."""
    height, width = images.shape[-2:]
    tall, wide = (max(1, round(size * math.sqrt(strength))) for size in (height, width))
    corner = _uniform((2, *images.shape[:-3]), images, generator)[..., None, None, None]
    top, left = (corner[0] * (height - tall + 1)).floor(), (corner[1] * (width - wide + 1)).floor()
    row = torch.arange(height, device=images.device)[:, None]
    column = torch.arange(width, device=images.device)
    inside = (row >= top) & (row < top + tall) & (column >= left) & (column < left + wide)  # (..., 1, H, W)
    hidden = inside.expand(images.shape)
    return Corrupted(images.masked_fill(hidden, 0.0), hidden)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), drawn on the generator's device, with the type and device of `like`."""
    device = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, dtype=torch.float32, device=device).to(like)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers, one for each intensity of `like`."""
    tiny = torch.finfo(like.dtype).tiny
    return torch.special.ndtri(_uniform(like.shape, like, generator).clamp(min=tiny))


def _clipped(images: Tensor) -> Corrupted:
    """Images clipped to [0, 1], of which no pixel is known to be missing."""
    return Corrupted(images.clamp(0, 1), torch.zeros_like(images, dtype=torch.bool))


_MOST = 1e6  # strength of noise without a natural limit
CORRUPTIONS["salt_and_pepper"] = Corruption(salt_and_pepper, "share of pixels", (0.1, 0.2, 0.3, 0.4, 0.5), 1.0)
CORRUPTIONS["speckle"] = Corruption(speckle, "standard deviation of the noise", (0.5, 1.0, 2.0), _MOST)
CORRUPTIONS["poisson"] = Corruption(poisson, "1 / photons", (0.4, 1.0, 2.0), _MOST)
CORRUPTIONS["gaussian"] = Corruption(gaussian, "standard deviation of the noise", (0.2, 0.4, 0.8), _MOST)
CORRUPTIONS["mask"] = Corruption(mask, "share of the area", (0.1, 0.25, 0.5), 1.0, hides=True)
