"""Noise on images, to make cues of them: what was written is to be recalled from a damaged copy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from kpp_pyro.errors import InputError

NoiseName = Literal["salt_and_pepper", "speckle", "poisson", "mask"]


@dataclass(frozen=True)
class Damaged:
    """Damaged images.

    Attributes:
        images: (..., C, H, W), intensities in [0, 1].
        hidden: bool, the same shape: True where a pixel is known to be missing (`mask` only).
    """

    images: Tensor
    hidden: Tensor


def damage(images: Tensor, noise: str, strength: float, generator: torch.Generator | None = None) -> Damaged:
    """Damage images (..., C, H, W), intensities in [0, 1], each pixel and each image by itself.

    | noise           | what happens                                                  | strength s                  |
    |-----------------|---------------------------------------------------------------|-----------------------------|
    | salt_and_pepper | pixels become black or white, with equal probability          | share of pixels, up to 1    |
    | speckle         | x (1 + s n), n ~ N(0, 1): bright pixels flicker               | standard deviation          |
    | poisson         | s Poisson(x / s): x / s photons on average                    | 1 / photons of a white pixel|
    | mask            | a square at a random place is black, and known to be missing  | share of the area, up to 1  |

    What leaves [0, 1] is cut off. The same generator gives the same damage on any device if it is of the CPU.

    Raises:
        InputError: an unknown noise, or a strength that it cannot have.
    """
    if noise not in _NOISES:
        raise InputError(f"--noise: expected one of {', '.join(get_args(NoiseName))}, found {noise!r}")
    make, most = _NOISES[noise]
    if not 0 < strength <= most or math.isinf(strength):
        bound = "a positive number" if math.isinf(most) else f"a share above 0, up to {most:g}"
        raise InputError(f"--strength of {noise}: expected {bound}, found {strength}")
    return make(images, strength, generator)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device).to(like)


def _noise(images: Tensor) -> Damaged:
    return Damaged(images.clamp(0, 1), torch.zeros_like(images, dtype=torch.bool))


def _salt_and_pepper(images: Tensor, strength: float, generator: torch.Generator | None) -> Damaged:
    chosen = _uniform(images.shape, images, generator) < strength
    salt = (_uniform(images.shape, images, generator) < 0.5).to(images)
    return _noise(torch.where(chosen, salt, images))


def _speckle(images: Tensor, strength: float, generator: torch.Generator | None) -> Damaged:
    tiny = torch.finfo(images.dtype).tiny
    normal = torch.special.ndtri(_uniform(images.shape, images, generator).clamp(min=tiny))
    return _noise(images * (1 + strength * normal))


def _poisson(images: Tensor, strength: float, generator: torch.Generator | None) -> Damaged:
    device = images.device if generator is None else generator.device
    photons = torch.poisson((images / strength).to(device), generator=generator).to(images)
    return _noise(photons * strength)


def _mask(images: Tensor, strength: float, generator: torch.Generator | None) -> Damaged:
    height, width = images.shape[-2:]
    tall, wide = (max(1, round(size * math.sqrt(strength))) for size in (height, width))
    corner = _uniform((2, *images.shape[:-3]), images, generator)[..., None, None, None]
    top, left = (corner[0] * (height - tall + 1)).floor(), (corner[1] * (width - wide + 1)).floor()
    row = torch.arange(height, device=images.device)[:, None]
    column = torch.arange(width, device=images.device)
    inside = (row >= top) & (row < top + tall) & (column >= left) & (column < left + wide)  # (..., 1, H, W)
    hidden = inside.expand(images.shape)
    return Damaged(images.masked_fill(hidden, 0.0), hidden)


Make = Callable[[Tensor, float, torch.Generator | None], Damaged]
_NOISES: dict[str, tuple[Make, float]] = {  # with the largest strength
    "salt_and_pepper": (_salt_and_pepper, 1.0),
    "speckle": (_speckle, math.inf),
    "poisson": (_poisson, math.inf),
    "mask": (_mask, 1.0),
}
