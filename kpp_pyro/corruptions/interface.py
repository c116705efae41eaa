"""What is registered of a corruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


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
