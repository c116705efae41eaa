"""The sign code: latents of +1 or -1, several of which are packed into each scalar of a memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_SIGNS = 16  # of a float32's 24 bits: the rounding errors of a read must be smaller than half a level


@dataclass(frozen=True)
class SignCode:
    """Packs P latents of +1 or -1 into one scalar v, as the binary digits of a level between -1 and 1.

        v = (2 k + 1) / 2^P - 1,   k = sum_i 2^(P - 1 - i) [z_i > 0]   for the P signs of a scalar

    Levels are evenly spaced. No level equals 0, the value of an unwritten block. A decoder gets the P unpacked signs,
    since a smooth function of v would not separate thousands of levels.

    Attributes:
        signs: P, latents per scalar, 1 to 16.
    """

    signs: int

    def of(self, latent: Tensor) -> Tensor:
        """Signs of latents, with the straight-through gradient of tanh(latent) (Bengio et al. 2013); same shape."""
        smooth = latent.tanh()
        return smooth + (torch.where(latent > 0, 1.0, -1.0).to(smooth.dtype) - smooth).detach()

    @torch.no_grad()
    def pack(self, latent: Tensor) -> Tensor:
        """Pack the signs of latents (..., D) into scalars (..., D / P); without a gradient."""
        digits = (latent > 0).unflatten(-1, (-1, self.signs)).to(latent.dtype)
        return (2 * (digits * self._places(latent)).sum(-1) + 1) / 2**self.signs - 1

    @torch.no_grad()
    def unpack(self, scalars: Tensor) -> Tensor:
        """Unpack scalars (..., S) to the signs (..., P S) of the nearest levels; without a gradient."""
        level = ((scalars.unsqueeze(-1) + 1) * 2 ** (self.signs - 1)).floor().clamp(0, 2**self.signs - 1)
        digits = (level / self._places(scalars)).floor() % 2
        return (2 * digits - 1).flatten(-2)

    def _places(self, like: Tensor) -> Tensor:
        """2^(P - 1), ..., 2, 1."""
        return 2.0 ** torch.arange(self.signs - 1, -1, -1, dtype=like.dtype, device=like.device)
