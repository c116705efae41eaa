"""Quantization of contents to few bits, to measure the information in a memory of 32-bit scalars."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Quantization:
    """Rounds the content of each image to 2^bits - 1 evenly spaced levels from -m to m, its largest absolute value.

    With a single bit, a scalar is its sign times m, which is then the mean absolute value: of all multiples of the
    signs, this one has the least square error (XNOR-Net, Rastegari et al. 2016, arXiv:1603.05279, section 3.1).

    If every content has its own block, the memory contains only these levels: it costs `bits` per scalar, and 32 bits
    per image for m. Rounding is idempotent. It has no gradient: it is for trained programs.

    Attributes:
        bits: bits per scalar, 1 to 16.
    """

    bits: int

    def __call__(self, latent: Tensor, episode: Tensor) -> Tensor:
        """Round contents (B, T, D); the episode's images are not used."""
        if self.bits == 1:
            return torch.where(latent < 0, -1, 1) * latent.abs().mean(-1, keepdim=True)
        largest = latent.abs().amax(-1, keepdim=True).clamp(min=1e-12)
        levels = 2 ** (self.bits - 1) - 1  # number of positive levels
        return (latent / largest * levels).round() / levels * largest
