"""Corruptions of images, to make cues of them: what was written is to be recalled from a corrupted copy.

| corruption      | what happens                                                  | strength s                   |
|-----------------|---------------------------------------------------------------|------------------------------|
| salt_and_pepper | pixels become black or white, with equal probability          | share of pixels, up to 1     |
| speckle         | x (1 + s n), n ~ N(0, 1): bright pixels flicker               | standard deviation           |
| poisson         | s Poisson(x / s): x / s photons on average                    | 1 / photons of a white pixel |
| mask            | a square at a random place is black, and known to be missing  | share of the area, up to 1   |

What leaves [0, 1] is cut off.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpp_pyro.config_part import did_you_mean
from kpp_pyro.corruptions.interface import Corrupted, Corruption
from kpp_pyro.corruptions.pixels import mask, poisson, salt_and_pepper, speckle
from kpp_pyro.errors import InputError

CORRUPTIONS: dict[str, Corruption] = {
    "salt_and_pepper": Corruption(salt_and_pepper, "share of pixels", (0.1, 0.2, 0.3, 0.4, 0.5), 1.0),
    "speckle": Corruption(speckle, "deviation of the flicker", (0.5, 1.0, 2.0), math.inf),
    "poisson": Corruption(poisson, "1 / photons", (0.4, 1.0, 2.0), math.inf),
    "mask": Corruption(mask, "share of the area", (0.1, 0.25, 0.5), 1.0),
}


def corrupt(images: Tensor, corruption: str, strength: float, generator: torch.Generator | None = None) -> Corrupted:
    """Corrupt images (..., C, H, W), intensities in [0, 1], each pixel and each image by itself.

    A generator of the CPU gives the same copies on any device.

    Raises:
        InputError: an unknown corruption, or a strength that it cannot have.
    """
    if corruption not in CORRUPTIONS:
        known = ", ".join(CORRUPTIONS)
        raise InputError(
            f"--noise: expected one of {known}, found {corruption!r}{did_you_mean(corruption, CORRUPTIONS)}"
        )
    kind = CORRUPTIONS[corruption]
    if not 0 < strength <= kind.largest or math.isinf(strength):
        bound = "a positive number" if math.isinf(kind.largest) else f"a share above 0, up to {kind.largest:g}"
        raise InputError(f"--strength of {corruption}: expected {bound}, found {strength}")
    return kind.apply(images, strength, generator)
