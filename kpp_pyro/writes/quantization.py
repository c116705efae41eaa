"""Quantization of contents to few bits, to measure the information in a memory of 32-bit scalars."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Quantization:
    """Rounds the content of each image to 2^bits - 1 evenly spaced levels from -m to m, its largest absolute value.

    If every content has its own block, the memory contains only these levels: it costs `bits` per scalar, and 32 bits
    per image for m. Rounding is idempotent. It has no gradient: it is for trained programs.

    Attributes:
        bits: bits per scalar, 2 to 16.
    """

    bits: int

    def __call__(self, latent: Tensor, episode: Tensor) -> Tensor:
        """Round contents (B, T, D); the episode's images are not used."""
        largest = latent.abs().amax(-1, keepdim=True).clamp(min=1e-12)
        levels = 2 ** (self.bits - 1) - 1  # number of positive levels
        return (latent / largest * levels).round() / levels * largest
