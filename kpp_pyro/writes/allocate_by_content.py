"""A malloc that looks at what it is given: blocks are chosen by content, so that images that are alike share."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kpp_pyro.memory.blocks import MemoryLayout
from kpp_pyro.memory.sign_code import SignCode
from kpp_pyro.writes.assignment import round_assignment, sinkhorn
from kpp_pyro.writes.blocks import BlockWrite
from kpp_pyro.writes.interface import WRITES, Encoding

# Variances of contents, relative to that of an episode's, at which they are told apart, round by round of k-means.
_TEMPERATURES = tuple(0.1 * 0.1 ** (done / 7) for done in range(8))  # 0.1 ... 0.01
_SINKHORN_STEPS = 5  # in each round, which goes on where the one before stopped
_LEAST = 1e-12  # contents of a block, in a mean


@dataclass(frozen=True, kw_only=True)
class AllocatedEncoding(Encoding):
    """An encoding with blocks.

    Attributes:
        blocks: number of the block of every read, (B, T, R).
    """

    blocks: Tensor


class AllocateByContentWrite(BlockWrite):
    """Contents go to blocks by what they are: one block each if there are enough, or else one with those like it.

        M = sum_sn P_sn read*(c_s, k_n) / sum_sn P_sn read*(1, k_n)

    Here s are the T R reads of an episode and c_s their contents, P is their assignment to the blocks, k_n a key in
    the middle of block n, and read* the adjoint of the read. Since such a key reads a block and nothing else, this is
    the mean in each block of what is assigned to it, or zero, and is computed as that, which is faster (a test holds
    the two equal). The posterior of an image's key is centred on its block. This departs from the paper, whose write is
    `feed_forward`.

    P is found by balanced soft k-means: prototypes of the blocks start in random places, the same for all
    episodes; every round assigns contents to the nearest of them (Sinkhorn), as many to each, and moves each to the
    mean of its own. Rounds grow sharper, and the last is rounded to whole blocks, no more than ceil(T R / N) contents
    to each. With room for all, `T R` blocks are used. The order of the images does not matter.

    P carries no gradient: the contents of a block do. With that of the last round's softmax passed straight through the
    rounding, digits were learned more slowly where there was room for all, and no better where there was not.

    Arguments are those of `BlockWrite`.
    """

    prototypes: Tensor

    def __init__(
        self,
        layout: MemoryLayout,
        encoding_size: int,
        smallest_scale: float,
        match_scale: float = 0.3,
        match_prior_prob: float = 0.01,
        dtype: torch.dtype = torch.float32,
        code: SignCode | None = None,
        semantic: float = 0.0,
    ) -> None:
        super().__init__(layout, encoding_size, smallest_scale, match_scale, match_prior_prob, dtype, code, semantic)
        chance = torch.Generator().manual_seed(0)  # of its own: the networks stay those of the other writes
        size = self.latent_size // layout.reads
        self.register_buffer("prototypes", torch.randn(layout.blocks, size, generator=chance))

    def encode(self, features: Tensor) -> AllocatedEncoding:
        """Add the parameters of q(z|X), and blocks."""
        encoding = super().encode(features)
        return AllocatedEncoding(**vars(encoding), blocks=self.allocate(encoding.latent_loc))

    def blocks_of(self, encoding: Encoding) -> Tensor:
        """Blocks that were chosen, by `encode` if it made the encoding, (B, T, R)."""
        return encoding.blocks if isinstance(encoding, AllocatedEncoding) else self.allocate(encoding.latent_loc)

    @torch.no_grad()
    def allocate(self, contents: Tensor) -> Tensor:
        """Choose blocks for the R parts of contents (B, T, D), (B, T, R)."""
        points = _standardised(contents.unflatten(-1, (self.layout.reads, -1)).flatten(1, 2))  # (B, T * R, D / R)
        return round_assignment(self._cluster(points)).unflatten(1, (-1, self.layout.reads))

    def _cluster(self, points: Tensor) -> Tensor:
        """Assign points (B, T * R, S) softly to blocks by what they are, (B, T * R, N), or (B, T * R, T * R)."""
        prototypes = self.prototypes[: points.shape[1]]
        scores = points @ prototypes.mT / math.sqrt(points.shape[-1])  # spread about one, as all are far from all
        shares, potential = sinkhorn(scores / _TEMPERATURES[0], _SINKHORN_STEPS)
        for before, temperature in itertools.pairwise(_TEMPERATURES):
            prototypes = shares.mT @ points / shares.sum(-2).clamp(min=_LEAST).unsqueeze(-1)
            scores, potential = _nearness(points, prototypes), potential * (before / temperature)
            shares, potential = sinkhorn(scores / temperature, _SINKHORN_STEPS, potential)
        return shares


def _standardised(contents: Tensor) -> Tensor:
    """Contents (B, T * R, S) with mean zero and mean square one in every episode."""
    centred = contents - contents.mean(1, keepdim=True)
    return centred / centred.square().mean((1, 2), keepdim=True).clamp(min=1e-12).sqrt()


def _nearness(points: Tensor, prototypes: Tensor) -> Tensor:
    """Minus half the mean square distance of points (B, T * R, S) to prototypes (B, N, S), up to one per point."""
    product = points @ prototypes.mT - prototypes.square().sum(-1).unsqueeze(-2) / 2
    return product / points.shape[-1]


WRITES["allocate_by_content"] = AllocateByContentWrite
