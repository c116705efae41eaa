"""Contents of few bits: what a memory really holds, which a count of its 32-bit scalars does not say."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

SMALLEST_BITS = 2  # zero, and one level on either side
LARGEST_BITS = 16  # of a float32's 24, so that rounding to the grid is exact


@dataclass(frozen=True)
class Quantization:
    """Rounds the contents of an episode to 2^bits - 1 even levels, between plus and minus the largest of them.

    Where every content has a block to itself, so does the memory hold nothing else, and costs `bits` per scalar, and 32
    for the largest content. Rounding is idempotent, and has no gradient: it is for programs that are trained.

    Attributes:
        bits: per scalar, 2 to 16.
    """

    bits: int

    def __call__(self, latent: Tensor, episode: Tensor) -> Tensor:
        """Round contents (B, T, D)."""
        largest = latent.abs().amax((-2, -1), keepdim=True).clamp(min=1e-12)
        levels = 2 ** (self.bits - 1) - 1  # on either side of zero
        return (latent / largest * levels).round() / levels * largest
