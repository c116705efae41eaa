"""Semantic reads: the prior p(z | M, y) of images that were not written, and the decoder of its latents.

A latent has two halves. The first is for keys that read a block as it was written, the second for semantic keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpp_pyro.networks.heads import IdentityReading, positive
from kpp_pyro.networks.mlp import ResidualMlp

_INITIAL_RAW_SCALE = 2.5  # `positive` maps it to a scale of about 1, that of a VAE's prior
_UNUSED_SCALE = 0.05  # scale of the half that is not used

Normal = tuple[Tensor, Tensor]  # location and scale


class SemanticReading(nn.Module):
    """p(z | M, y), in which the key's scale decides between two kinds of reads.

    Most keys read a block as it was written (`IdentityReading`). Semantic keys give the prior of images that were not
    written: a wide normal whose location and scale are a learned function of the block. The mixture of these normals
    over all blocks is the prior of an exemplar VAE (Norouzi, Fleet & Norouzi 2020), with the images of an episode as
    exemplars. If the exemplars carry no information, the function may be constant: the prior of a VAE.

    The two kinds of reads use different halves of the latent (`in_halves`), since contents encode pixels and are not
    points in the latent space of a VAE.

    Args:
        sharp: the reading of keys that are not semantic.
        width: number of hidden units.
        smallest_scale: lower bound of the scale of semantic reads.
    """

    def __init__(self, sharp: IdentityReading, width: int, smallest_scale: float) -> None:
        super().__init__()
        self.sharp, self.latent_size, self.packed = sharp, 2 * sharp.latent_size, sharp.packed
        self.smallest_scale = smallest_scale
        self.stem = nn.Linear(sharp.latent_size, width)
        self.blocks = nn.Sequential(ResidualMlp(width), nn.LayerNorm(width))
        self.head = nn.Linear(width, self.latent_size)

    def forward(self, block: Tensor, is_semantic: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale of the latent, (..., D) each.

        Args:
            block: (..., 1, C_m, h, w).
            is_semantic: whether the key is semantic, bool (..., 1).
        """
        return in_halves(self.sharp(block), self.semantic(block), is_semantic)

    def semantic(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale, (..., D / 2) each, of a semantic read of blocks (..., 1, C_m, h, w)."""
        content, _ = self.sharp(block)
        loc, raw = self.head(self.blocks(self.stem(content))).chunk(2, -1)
        return loc, positive(raw + _INITIAL_RAW_SCALE, self.smallest_scale)


def in_halves(sharp: Normal, semantic: Normal, is_semantic: Tensor) -> Normal:
    """Place a read in its half of the latent; the other half is N(0, 0.05^2).

    Args:
        sharp: loc and scale, (..., D / 2) each, of the first half if the key is not semantic.
        semantic: loc and scale, (..., D / 2) each, of the second half if the key is semantic.
        is_semantic: bool (..., 1).

    Returns:
        Loc and scale of the latent, (..., D) each.
    """
    zero, unused = sharp[0].new_zeros(()), sharp[0].new_full((), _UNUSED_SCALE)
    locs = torch.where(is_semantic, zero, sharp[0]), torch.where(is_semantic, semantic[0], zero)
    scales = torch.where(is_semantic, unused, sharp[1]), torch.where(is_semantic, semantic[1], unused)
    return torch.cat(locs, -1), torch.cat(scales, -1)


class DecoderOfHalves(nn.Module):
    """p(x | z) for latents z = (z_1, z_2) of `SemanticReading`: one decoder for each half.

        logits = sharp(z_1) + semantic(z_2)

    The unused half of z is nearly constant, and adds nearly constant logits.

    Args:
        sharp: decoder of the first half.
        semantic: decoder of the second half.
        latent_size: D.
    """

    def __init__(self, sharp: nn.Module, semantic: nn.Module, latent_size: int) -> None:
        super().__init__()
        self.sharp, self.semantic, self.latent_size = sharp, semantic, latent_size

    def forward(self, latent: Tensor) -> Tensor:
        """Logits (..., C, H, W) of latents (..., D), or of contents (..., D / 2), which are the first half."""
        is_content = latent.shape[-1] == self.latent_size // 2
        sharp, semantic = (F.pad(latent, (0, latent.shape[-1])) if is_content else latent).chunk(2, -1)
        return self.sharp(sharp) + self.semantic(semantic)
