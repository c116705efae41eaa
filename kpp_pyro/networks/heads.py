"""Heads that turn features into the parameters of a normal distribution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def positive(raw: Tensor, smallest: float) -> Tensor:
    """Map raw network outputs to scales above `smallest`; zero maps to about 0.13 + smallest."""
    precise = raw if raw.dtype == torch.float64 else raw.float()
    return smallest + F.softplus(precise - 2)


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
