"""From what was read to the prior of the latent: the networks of p(z | M, y)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpp_pyro.networks.heads import IdentityReading, positive
from kpp_pyro.networks.mlp import ResidualMlp

_WIDE = 2.5  # raw value of a scale of about one, with which a VAE's prior begins
_STILL = 0.05  # scale of the coordinates that a read leaves alone

Normal = tuple[Tensor, Tensor]  # location and scale


class SemanticReading(nn.Module):
    """p(z | M, y), where the key's scale says how a block is to be read.

    Most keys read what was written, as `IdentityReading` does. Semantic ones read what it says of images that were not
    written: a wide normal, whose location and scale are a learned function of the content. The mixture of these over
    the blocks is a prior like that of an exemplar VAE (Norouzi, Fleet & Norouzi 2020), with an episode's images for
    exemplars; where they tell nothing, the function may be a constant, and it is the prior of a VAE.

    Both kinds of reads have coordinates of their own in the latent, see `in_halves`: what is written is a code for
    pixels, and says little in the space of a VAE.
    """

    def __init__(self, sharp: IdentityReading, width: int, smallest_scale: float) -> None:
        super().__init__()
        self.sharp, self.latent_size, self.packed = sharp, 2 * sharp.latent_size, sharp.packed
        self.smallest_scale = smallest_scale
        self.stem = nn.Linear(sharp.latent_size, width)
        self.blocks = nn.Sequential(ResidualMlp(width), nn.LayerNorm(width))
        self.head = nn.Linear(width, self.latent_size)

    def forward(self, block: Tensor, is_semantic: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale (..., D) of the latent, from blocks (..., 1, C_m, h, w) and how they are read, (..., 1)."""
        return in_halves(self.sharp(block), self.semantic(block), is_semantic)

    def semantic(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale (..., D / 2) of a semantic read of blocks (..., 1, C_m, h, w)."""
        content, _ = self.sharp(block)
        loc, raw = self.head(self.blocks(self.stem(content))).chunk(2, -1)
        return loc, positive(raw + _WIDE, self.smallest_scale)


def in_halves(sharp: Normal, semantic: Normal, is_semantic: Tensor) -> Normal:
    """A latent whose one half or the other carries what is read, while the rest lies still at zero.

    Args:
        sharp: loc and scale (..., D / 2) of the first half, if it is what is read.
        semantic: likewise of the second.
        is_semantic: (..., 1).

    Returns:
        Loc and scale (..., D).
    """
    zero, still = sharp[0].new_zeros(()), sharp[0].new_full((), _STILL)
    locs = torch.where(is_semantic, zero, sharp[0]), torch.where(is_semantic, semantic[0], zero)
    scales = torch.where(is_semantic, still, sharp[1]), torch.where(is_semantic, semantic[1], still)
    return torch.cat(locs, -1), torch.cat(scales, -1)


class DecoderOfHalves(nn.Module):
    """p(x|z) of latents that `SemanticReading` reads: a decoder for each half, whose logits are added.

    That of the half that lies still adds next to a constant image, which the other one makes up for.
    """

    def __init__(self, sharp: nn.Module, semantic: nn.Module, latent_size: int) -> None:
        super().__init__()
        self.sharp, self.semantic, self.latent_size = sharp, semantic, latent_size

    def forward(self, latent: Tensor) -> Tensor:
        """Decode latents (..., D), or contents (..., D / 2) of blocks, as the first half."""
        is_content = latent.shape[-1] == self.latent_size // 2
        sharp, semantic = (F.pad(latent, (0, latent.shape[-1])) if is_content else latent).chunk(2, -1)
        return self.sharp(sharp) + self.semantic(semantic)
