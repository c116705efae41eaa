"""The sign code: latents of few levels, such as +1 or -1, several of which are packed into each scalar of a memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_SIGNS = 16  # of a float32's 24 bits: the rounding errors of a read must be smaller than half a level


@dataclass(frozen=True)
class SignCode:
    """Packs latents of L levels into one scalar v, as the digits, base L, of a level between -1 and 1.

        z_i = 2 k_i / (L - 1) - 1,   k_i in 0, ..., L - 1,   L = 2^b       (b = 1: +1 or -1)
        v   = (2 k + 1) / 2^P - 1,   k = sum_i L^(n - 1 - i) k_i           for the n = P / b latents of a scalar

    Levels are evenly spaced. No level of v equals 0, the value of an unwritten block. A decoder gets the unpacked
    latents, since a smooth function of v would not separate thousands of levels. Rounding to L levels with a
    straight-through gradient is finite scalar quantization (Mentzer et al. 2024, arXiv:2309.15505).

    Attributes:
        signs: P, signs (bits) per scalar, 1 to 16.
        signs_per_latent: b, a divisor of P.
    """

    signs: int
    signs_per_latent: int = 1

    @property
    def latents(self) -> int:
        """n, latents per scalar."""
        return self.signs // self.signs_per_latent

    @property
    def levels(self) -> int:
        """L, levels of a latent."""
        return int(2**self.signs_per_latent)

    @property
    def spacing(self) -> float:
        """Distance between neighbouring levels of a latent."""
        return 2 / (self.levels - 1)

    def of(self, latent: Tensor) -> Tensor:
        """The levels nearest to tanh(latent), with its straight-through gradient (Bengio et al. 2013); same shape."""
        return self.round(latent.tanh())

    def round(self, values: Tensor) -> Tensor:
        """The levels nearest to values, with the gradient of the values themselves; same shape."""
        levels = self._level(self._number(values.detach()))
        return values + (levels - values).detach()

    @torch.no_grad()
    def pack(self, latent: Tensor) -> Tensor:
        """Pack the levels nearest to latents (..., D) into scalars (..., D / n); without a gradient."""
        digits = self._number(latent).unflatten(-1, (-1, self.latents))
        return (2 * (digits * self._places(latent)).sum(-1) + 1) / 2**self.signs - 1

    @torch.no_grad()
    def unpack(self, scalars: Tensor) -> Tensor:
        """Unpack scalars (..., S) to the latents (..., n S) of the nearest levels; without a gradient."""
        number = ((scalars.unsqueeze(-1) + 1) * 2 ** (self.signs - 1)).floor().clamp(0, 2**self.signs - 1)
        return self._level((number / self._places(scalars)).floor() % self.levels).flatten(-2)

    def _number(self, values: Tensor) -> Tensor:
        """k of the level nearest to each value; a value in the middle of two has the lower one."""
        return ((values + 1) / self.spacing - 0.5).ceil().clamp(0, self.levels - 1)

    def _level(self, number: Tensor) -> Tensor:
        return number * self.spacing - 1

    def _places(self, like: Tensor) -> Tensor:
        """L^(n - 1), ..., L, 1."""
        exponents = torch.arange(self.latents - 1, -1, -1, dtype=like.dtype, device=like.device)
        return float(self.levels) ** exponents
