"""What is registered of a corruption."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kpp_pyro.config_part import did_you_mean
from kpp_pyro.errors import InputError


@dataclass(frozen=True)
class Corrupted:
    """Corrupted copies of images.

    Attributes:
        images: (..., C, H, W), intensities in [0, 1].
        hidden: bool, the same shape: True where a pixel is known to be missing.
    """

    images: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Corruption:
    """A way to corrupt images.

    Attributes:
        apply: from images (..., C, H, W), intensities in [0, 1], a strength and a generator to corrupted copies.
        meaning: of its strength.
        strengths: that tell how much a memory bears, from weak to strong.
        largest: strength; any if infinite.
    """

    apply: Callable[[Tensor, float, torch.Generator | None], Corrupted]
    meaning: str
    strengths: tuple[float, ...]
    largest: float


CORRUPTIONS: dict[str, Corruption] = {}
"""Corruptions by name; the file of each one registers it."""


def corrupt(images: Tensor, corruption: str, strength: float, generator: torch.Generator | None = None) -> Corrupted:
    """Corrupt images (..., C, H, W), intensities in [0, 1], each pixel and each image by itself.

    A generator of the CPU gives the same copies on any device.

    Raises:
        InputError: an unknown corruption, or a strength that it cannot have.
    """
    kind = find_corruption(corruption)
    if not 0 < strength <= kind.largest or math.isinf(strength):
        bound = "a positive number" if math.isinf(kind.largest) else f"a share above 0, up to {kind.largest:g}"
        raise InputError(f"--strength of {corruption}: expected {bound}, found {strength}")
    return kind.apply(images, strength, generator)


def find_corruption(name: str) -> Corruption:
    """The corruption of a name.

    Raises:
        InputError: an unknown name.
    """
    if name not in CORRUPTIONS:
        known = ", ".join(CORRUPTIONS)
        raise InputError(f"--corruption: expected one of {known}, found {name!r}{did_you_mean(name, CORRUPTIONS)}")
    return CORRUPTIONS[name]
