"""How far an estimate is from an image: the errors of reports, and what "the nearest image" means.

| images            | distance                                                             | in reports            |
|-------------------|----------------------------------------------------------------------|-----------------------|
| binary            | number of wrong pixels, after the estimate is cut at 1/2             | wrong_pixels_per_image |
| of grey levels    | squared error, the mean over the dimensions; intensities in [0, 1]   | squared_error_per_dim |

Both are squared Euclidean distances. Squared errors are also given as PSNR in dB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distance:
    """A squared Euclidean distance between images.

    Attributes:
        name: in the names of a report's fields.
        per: what it is of: "per_image", a sum over the dimensions, or "per_dim", their mean.
        binary: whether intensities are cut at 1/2 before they are compared.
        bin: width of a histogram's bins, whose centres are its multiples.
        digits: decimal places in tables.
    """

    name: str
    per: str
    binary: bool
    bin: float
    digits: int

    @property
    def field(self) -> str:
        """Name in reports, such as wrong_pixels_per_image."""
        return f"{self.name}_{self.per}"

    @property
    def words(self) -> str:
        """Name in sentences, such as wrong pixels."""
        return self.name.replace("_", " ")

    def compared(self, images: Tensor) -> Tensor:
        """The intensities that are compared, (..., C, H, W), as floats.

        Args:
            images: intensities in [0, 1] as floats, levels k / 255 as uint8, or bits as bool, (..., C, H, W).
        """
        intensities = images / 255 if images.dtype == torch.uint8 else images
        kept = intensities > 0.5 if self.binary else intensities
        return kept.to(images.dtype if images.is_floating_point() else torch.float32)

    def between(self, estimate: Tensor, images: Tensor) -> Tensor:
        """Distance (...) of estimates from images, both (..., C, H, W), see `compared`."""
        square = (self.compared(estimate) - self.compared(images)).square().flatten(-3)
        return square.sum(-1) if self.binary else square.mean(-1)


WRONG_PIXELS = Distance("wrong_pixels", "per_image", binary=True, bin=1, digits=2)
SQUARED_ERROR = Distance("squared_error", "per_dim", binary=False, bin=0.001, digits=4)


def distance_of(levels: int) -> Distance:
    """The distance that fits a likelihood of images of 2 or more levels."""
    return WRONG_PIXELS if levels == 2 else SQUARED_ERROR


def distance_in(fields: Iterable[str]) -> Distance:
    """The distance that the fields of a report name."""
    return SQUARED_ERROR if any(SQUARED_ERROR.name in field for field in fields) else WRONG_PIXELS


def psnr_db(squared_error: float) -> float:
    """Peak signal-to-noise ratio 10 log10(1 / MSE) in dB, of a squared error per dimension; infinite for 0."""
    return -10 * math.log10(squared_error) if squared_error else math.inf
