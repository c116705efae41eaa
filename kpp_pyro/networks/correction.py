"""What a latent's posterior learns from what its key read: the network of q(z | x, M, y)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FIRST_SCALE = 0.01  # of the last layer's weights: at first, hardly anything changes


class LatentCorrection(nn.Module):
    """Features (B, T, F) and reads (..., B, T, S) to changes of the location, in scales, and of the log-scale."""

    def __init__(self, encoding_size: int, read_size: int, latent_size: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Linear(encoding_size + read_size, width)
        self.head = nn.Linear(width, 2 * latent_size)
        nn.init.normal_(self.head.weight, std=_FIRST_SCALE / width**0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shift and the change of the log-scale, (..., B, T, D) each."""
        seen = torch.cat([features.expand(*read.shape[:-1], -1), read], -1)
        shift, log_change = self.head(F.gelu(self.stem(seen))).chunk(2, -1)
        return shift, log_change
