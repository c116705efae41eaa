"""Residual blocks with a temporal shift: one for vectors, one for feature maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kpp_pyro.temporal_shift import temporal_shift


class ResidualMlp(nn.Module):
    """x + W2 gelu(W1 shift(norm(x))) on vectors (B, T, width), or (..., width) without a shift."""

    def __init__(self, width: int, shift_fraction: float = 0.0) -> None:
        super().__init__()
        self.shift_fraction = shift_fraction
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, width)
        self.project = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        shifted = temporal_shift(self.norm(features), self.shift_fraction)
        return features + self.project(F.gelu(self.widen(shifted)))


class ResidualConv(nn.Module):
    """x + conv(gelu(conv(gelu(shift(norm(x)))))) on feature maps (B, T, channels, height, width)."""

    def __init__(self, channels: int, shift_fraction: float = 0.0) -> None:
        super().__init__()
        self.shift_fraction = shift_fraction
        self.norm = nn.GroupNorm(8, channels)
        self.widen = nn.Conv2d(channels, channels, 3, padding=1)
        self.project = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        batch = features.shape[:2]
        shifted = temporal_shift(self.norm(features.flatten(0, 1)).unflatten(0, batch), self.shift_fraction)
        change = self.project(F.gelu(self.widen(F.gelu(shifted.flatten(0, 1)))))
        return features + change.unflatten(0, batch)
