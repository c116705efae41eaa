"""Latents that are signs, many to every scalar of a memory: a 32-bit float holds more than one number's worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_SIGNS = 16  # of a float32's 24 bits: what a read mixes in by rounding positions has to stay below half a level


@dataclass(frozen=True)
class SignCode:
    """Packs `signs` latents of +1 or -1 into one scalar, as the binary digits of a level between -1 and 1.

        v = (2 k + 1) / 2^P - 1,   k = sum_i 2^(P - 1 - i) [z_i > 0]   for the P signs of a scalar

    Levels are evenly spaced and none is zero, which is what a block that was never written to holds. A smooth decoder
    cannot tell thousands of levels of one number apart; of P signs it sees each.

    Attributes:
        signs: P, latents per scalar, 1 to 16.
    """

    signs: int

    def of(self, latent: Tensor) -> Tensor:
        """Signs of latents, with the gradient of their hyperbolic tangent, straight through (Bengio et al. 2013)."""
        smooth = latent.tanh()
        return smooth + (torch.where(latent > 0, 1.0, -1.0).to(smooth.dtype) - smooth).detach()

    @torch.no_grad()
    def pack(self, latent: Tensor) -> Tensor:
        """Latents (..., D) to scalars (..., D / P), by their signs; without a gradient."""
        digits = (latent > 0).unflatten(-1, (-1, self.signs)).to(latent.dtype)
        return (2 * (digits * self._places(latent)).sum(-1) + 1) / 2**self.signs - 1

    @torch.no_grad()
    def unpack(self, scalars: Tensor) -> Tensor:
        """Scalars (..., S) to signs (..., P S), of the nearest levels; without a gradient."""
        level = ((scalars.unsqueeze(-1) + 1) * 2 ** (self.signs - 1)).floor().clamp(0, 2**self.signs - 1)
        digits = (level / self._places(scalars)).floor() % 2
        return (2 * digits - 1).flatten(-2)

    def _places(self, like: Tensor) -> Tensor:
        """2^(P - 1), ..., 2, 1."""
        return 2.0 ** torch.arange(self.signs - 1, -1, -1, dtype=like.dtype, device=like.device)
