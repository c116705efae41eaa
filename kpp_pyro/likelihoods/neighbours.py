"""The four neighbours before each pixel, row by row, that local autoregressive likelihoods predict a pixel from."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Size, Tensor

NEIGHBOURS = (0, -1), (-1, 0), (-1, -1), (-1, 1)
"""Rows and columns from a pixel to its left, upper, upper left and upper right neighbour."""

Pixels = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From rows (n), columns (n) and neighbours (..., C, 4, n) of n pixels to their values (..., C, n)."""


def neighbours_of(image: Tensor) -> Tensor:
    """The neighbours of all pixels of an image (..., C, H, W): (..., C, 4, H, W), 0 beyond an edge."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (1, 1, 1, 0))
    views = (padded[..., 1 + row : 1 + row + height, 1 + col : 1 + col + width] for row, col in NEIGHBOURS)
    return torch.stack([*views], -3)


def pixel_after_pixel(pixels: Pixels, shape: Size, like: Tensor) -> Tensor:
    """An image whose pixels are functions of their neighbours, found in 2 H + W - 2 calls of `pixels`.

    Args:
        pixels: the values of pixels, none of which is another's neighbour.
        shape: (..., C, H, W).
        like: a tensor of the image's type and device.
    """
    height, width = shape[-2:]
    padded = like.new_zeros(*shape[:-2], (height + 1) * (width + 2))
    for rows, columns in _fronts(height, width):
        here = (rows + 1) * (width + 2) + columns + 1
        around = torch.stack([here + row * (width + 2) + column for row, column in NEIGHBOURS])
        padded[..., here] = pixels(rows, columns, padded[..., around])
    return padded.unflatten(-1, (height + 1, width + 2))[..., 1:, 1:-1]


def _fronts(height: int, width: int) -> list[tuple[Tensor, Tensor]]:
    """Rows and columns of the pixels with the same 2 row + column, none of which is another's neighbour before it."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    number = 2 * row + column
    return [(row[number == n], column[number == n]) for n in range(2 * (height - 1) + width)]
