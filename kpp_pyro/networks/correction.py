"""The network of q(z | x, M, y), by which the posterior of a latent depends on the block that its key reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_INITIAL_STD = 0.01  # of the last layer's parameters: corrections are small at the start
_LARGEST_LOG_CHANGE = 3.0  # a scale changes by a factor of at most 20, however strange the read of another memory is


class LatentCorrection(nn.Module):
    """Corrections to the parameters of q(z | X), from an image's features and the block that its key reads.

    Args:
        encoding_size: F, the size of the features.
        read_size: S, the number of scalars read.
        latent_size: D.
        width: number of hidden units.
    """

    def __init__(self, encoding_size: int, read_size: int, latent_size: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Linear(encoding_size + read_size, width)
        self.head = nn.Linear(width, 2 * latent_size)
        nn.init.normal_(self.head.weight, std=_INITIAL_STD / width**0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        """Shift of the location, in units of the scale, and change of the log-scale, within 3, (..., B, T, D) each.

        Args:
            features: (B, T, F).
            read: (..., B, T, S).
        """
        inputs = torch.cat([features.expand(*read.shape[:-1], -1), read], -1)
        shift, raw = self.head(F.gelu(self.stem(inputs))).chunk(2, -1)
        return shift, _LARGEST_LOG_CHANGE * torch.tanh(raw / _LARGEST_LOG_CHANGE)
