"""From what was read to the prior of the latent: the networks of p(z | M, y)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpp_pyro.memory import MemoryLayout
from kpp_pyro.networks.heads import LocScaleHead, positive
from kpp_pyro.networks.residual import ResidualMlp
from kpp_pyro.sign_code import SignCode

_WIDE = 2.5  # raw value of a scale of about one, with which a VAE's prior begins


class IdentityReading(nn.Module):
    """p(z | M, y): the location is the read itself, or the signs in it; the scale is learned, one per dimension."""

    def __init__(self, layout: MemoryLayout, smallest_scale: float, code: SignCode | None = None) -> None:
        super().__init__()
        self.code, self.packed = code, code is not None
        self.latent_size = layout.read_scalars * (code.signs if code else 1)
        self.smallest_scale = smallest_scale
        self.raw_scale = nn.Parameter(torch.zeros(self.latent_size))

    def forward(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and scale (..., D) of the latent, from blocks (..., R, C_m, h, w)."""
        scalars = block.flatten(-4)
        loc = self.code.unpack(scalars) if self.code else scalars
        return loc, positive(self.raw_scale, self.smallest_scale).expand_as(loc)


class SemanticReading(nn.Module):
    """p(z | M, y), where the key's scale says how a block is to be read.

    Most keys read what was written, as `IdentityReading` does. Semantic ones read what it says of images that were not
    written: a wide normal, whose location and scale are a learned function of the content. The mixture of these over
    the blocks is a prior like that of an exemplar VAE (Norouzi, Fleet & Norouzi 2020), with an episode's images for
    exemplars; where they tell nothing, the function may be a constant, and it is the prior of a VAE.
    """

    def __init__(self, sharp: IdentityReading, width: int, smallest_scale: float) -> None:
        super().__init__()
        self.sharp, self.latent_size, self.packed = sharp, sharp.latent_size, sharp.packed
        self.smallest_scale = smallest_scale
        self.stem = nn.Linear(self.latent_size, width)
        self.blocks = nn.Sequential(ResidualMlp(width), nn.LayerNorm(width))
        self.head = nn.Linear(width, 2 * self.latent_size)

    def forward(self, block: Tensor, is_semantic: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale (..., D) of the latent, from blocks (..., 1, C_m, h, w) and how they are read, (..., 1)."""
        loc, scale = self.sharp(block)
        semantic_loc, semantic_scale = self.semantic(block)
        return torch.where(is_semantic, semantic_loc, loc), torch.where(is_semantic, semantic_scale, scale)

    def semantic(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale (..., D) of a semantic read of blocks (..., 1, C_m, h, w)."""
        content, _ = self.sharp(block)
        loc, raw = self.head(self.blocks(self.stem(content))).chunk(2, -1)
        return loc, positive(raw + _WIDE, self.smallest_scale)


class MlpReading(nn.Module):
    """p(z | M, y): location and scale by a residual MLP from the read."""

    def __init__(self, layout: MemoryLayout, latent_size: int, width: int, depth: int, smallest_scale: float) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.stem = nn.Linear(layout.read_scalars, width)
        self.blocks = nn.Sequential(*(ResidualMlp(width) for _ in range(depth)), nn.LayerNorm(width))
        self.head = LocScaleHead(width, latent_size, smallest_scale)

    def forward(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and scale (..., D) of the latent, from blocks (..., R, C_m, h, w)."""
        return self.head(self.blocks(self.stem(block.flatten(-4))))


class NoReading(nn.Module):
    """p(z) = N(0, I), whatever is read: the control that says what the memory is worth."""

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_size = latent_size

    def forward(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and scale (..., D) of the latent, for blocks (..., R, C_m, h, w)."""
        loc = block.new_zeros(()).expand(*block.shape[:-4], self.latent_size)
        return loc, torch.ones_like(loc)
