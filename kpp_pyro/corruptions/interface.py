"""The registry of corruptions, and `corrupt`, which applies one by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kpp_pyro.arguments import checked
from kpp_pyro.config_part import require_name
from kpp_pyro.errors import InputError


@dataclass(frozen=True)
class Corrupted:
    """Corrupted copies of images.

    Attributes:
        images: intensities in [0, 1], (..., C, H, W).
        hidden: True for pixels that are known to be missing, bool (..., C, H, W).
    """

    images: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Corruption:
    """A registered corruption.

    Attributes:
        apply: (images (..., C, H, W) with intensities in [0, 1], strength, generator) to corrupted copies.
        meaning: meaning of the strength, in a few words.
        strengths: default strengths of experiments, in increasing order.
        largest: largest strength that is allowed.
        hides: whether some corrupted pixels are known to be missing.
    """

    apply: Callable[[Tensor, float, torch.Generator | None], Corrupted]
    meaning: str
    strengths: tuple[float, ...]
    largest: float
    hides: bool = False


_SMALLEST = 1e-6  # strength: with less, the numbers of photons are beyond float32
CORRUPTIONS: dict[str, Corruption] = {}
"""Corruptions by name; each is registered by its own file."""


@checked
def corrupt(images: Tensor, corruption: str, strength: float, generator: torch.Generator | None = None) -> Corrupted:
    """Corrupt images, independently of each other.

    Args:
        images: intensities in [0, 1], (..., C, H, W).
        corruption: name in `CORRUPTIONS`.
        strength: positive, in the unit of the corruption.
        generator: a CPU generator gives the same copies on any device.

    Raises:
        InputError: an unknown corruption, a strength outside its range, or images that are none.
    """
    found = find_corruption(corruption)
    if images.layout != torch.strided or images.is_meta or images.is_nested:
        kind = "a nested one" if images.is_nested else f"{images.layout} on {images.device}"
        raise InputError(f"images: expected a dense tensor, found {kind}")
    if images.ndim < 3 or images.dtype not in (torch.float32, torch.float64):
        what = f"{images.dtype} {tuple(images.shape)}"
        raise InputError(f"images: expected a float32 or float64 tensor (..., C, H, W), found {what}")
    low, high = images.aminmax() if images.numel() else (-1, 2)  # NaN where any is NaN
    if not (low >= 0 and high <= 1):
        raise InputError("images: expected intensities from 0 to 1, found others")
    if not _SMALLEST <= strength <= found.largest:
        raise InputError(
            f"strength of {corruption}: expected {_SMALLEST:g} to {found.largest:g}, found {float(strength)}"
        )
    return found.apply(images, float(strength), generator)


def find_corruption(name: str) -> Corruption:
    """Look up a corruption.

    Raises:
        InputError: an unknown name.
    """
    try:
        require_name(name, CORRUPTIONS)
    except ValueError as error:
        raise InputError(f"corruption: {error}") from error
    return CORRUPTIONS[name]
