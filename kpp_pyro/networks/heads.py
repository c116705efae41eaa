"""Heads that turn features into the parameters of a normal distribution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def positive(raw: Tensor, smallest: float) -> Tensor:
    """Map raw network outputs to scales above `smallest`; zero maps to about 0.13 + smallest."""
    return smallest + F.softplus(_precise(raw) - 2)


def between(raw: Tensor, smallest: float, largest: float) -> Tensor:
    """Map raw network outputs to scales between two bounds; zero maps to the middle."""
    return smallest + (largest - smallest) * _precise(raw).sigmoid()


def _precise(raw: Tensor) -> Tensor:
    return raw if raw.dtype == torch.float64 else raw.float()


class LocScaleHead(nn.Module):
    """Features (..., width) to loc and scale (..., size)."""

    def __init__(self, width: int, size: int, smallest_scale: float) -> None:
        super().__init__()
        self.smallest_scale = smallest_scale
        self.linear = nn.Linear(width, 2 * size)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and scale."""
        loc, raw = self.linear(features).chunk(2, -1)
        return loc, positive(raw, self.smallest_scale)
