"""The write `allocate_by_content`: balanced clustering of contents decides which contents share a block."""

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

# Temperature of each round of k-means: the variance within a cluster, relative to the variance of the episode.
_TEMPERATURES = tuple(0.1 * 0.1 ** (done / 7) for done in range(8))  # 0.1 ... 0.01
_SINKHORN_STEPS = 5  # in each round, from the potential of the previous round
_SMALLEST = 1e-12  # of denominators


@dataclass(frozen=True, kw_only=True)
class AllocatedEncoding(Encoding):
    """An encoding with allocated blocks.

    Attributes:
        blocks: block number of every read, (B, T, R).
    """

    blocks: Tensor


class AllocateByContentWrite(BlockWrite):
    """Contents are clustered: each gets its own block if there are enough blocks, otherwise similar contents share one.

        M = sum_sn P_sn read*(c_s, k_n) / sum_sn P_sn read*(1, k_n)

    c_s are the contents of the T R reads of an episode, P is their assignment to the N blocks, k_n is a key at the
    centre of block n, and read* is the adjoint of the read. Since key k_n reads block n and nothing else, each block is
    the mean of the contents that are assigned to it, or zero. It is computed as this mean, which is faster; a test
    checks that both are equal. The posterior of an image's key is centred on its block. The paper's write is
    `feed_forward`; this one is not in the paper.

    P is found by balanced soft k-means. The prototypes of the blocks start at random values, the same for all episodes.
    Each round assigns contents to similar prototypes, equally many to each (Sinkhorn), and moves each prototype to the
    mean of its contents. The temperature decreases from round to round. The last assignment is rounded, with at most
    ceil(T R / N) contents per block. If T R <= N, T R blocks are used. The order of the images does not matter.

    The contents have a gradient; P has none. Measured on digits: with a straight-through gradient of the last round's
    softmax, training is slower (T R <= N) or no better (T R > N).

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
        from_code: bool = False,
    ) -> None:
        matching = match_scale, match_prior_prob
        super().__init__(layout, encoding_size, smallest_scale, *matching, dtype, code, from_code)
        generator = torch.Generator().manual_seed(0)  # the global random state stays as for the other writes
        size = self.latent_size // layout.reads
        self.register_buffer("prototypes", torch.randn(layout.blocks, size, generator=generator))

    def encode(self, features: Tensor) -> AllocatedEncoding:
        """Compute the parameters of q(z | X), and allocate blocks."""
        encoding = super().encode(features)
        return AllocatedEncoding(**vars(encoding), blocks=self.allocate(encoding.latent_loc))

    def blocks_of(self, encoding: Encoding) -> Tensor:
        """Allocated blocks, (B, T, R): those of the encoding if it has any, otherwise computed from its contents."""
        return encoding.blocks if isinstance(encoding, AllocatedEncoding) else self.allocate(encoding.latent_loc)

    @torch.no_grad()
    def allocate(self, contents: Tensor) -> Tensor:
        """Block numbers, (B, T, R), for the R parts of contents (B, T, D)."""
        points = _standardised(contents.unflatten(-1, (self.layout.reads, -1)).flatten(1, 2))  # (B, T * R, D / R)
        return round_assignment(self._cluster(points)).unflatten(1, (-1, self.layout.reads))

    def _cluster(self, points: Tensor) -> Tensor:
        """Soft assignment of points (B, T * R, S) to blocks, (B, T * R, min(N, T * R))."""
        prototypes = self.prototypes[: points.shape[1]]
        scores = points @ prototypes.mT / math.sqrt(points.shape[-1])  # of unit variance: distances are nearly equal
        shares, potential = sinkhorn(scores / _TEMPERATURES[0], _SINKHORN_STEPS)
        for before, temperature in itertools.pairwise(_TEMPERATURES):
            prototypes = shares.mT @ points / shares.sum(-2).clamp(min=_SMALLEST).unsqueeze(-1)
            scores, potential = _similarity(points, prototypes), potential * (before / temperature)
            shares, potential = sinkhorn(scores / temperature, _SINKHORN_STEPS, potential)
        return shares


def _standardised(contents: Tensor) -> Tensor:
    """Contents (B, T * R, S), shifted and scaled to mean zero and mean square one in every episode."""
    centred = contents - contents.mean(1, keepdim=True)
    return centred / centred.square().mean((1, 2), keepdim=True).clamp(min=_SMALLEST).sqrt()


def _similarity(points: Tensor, prototypes: Tensor) -> Tensor:
    """Minus half the mean square distance of points (B, T * R, S) to prototypes (B, N, S), up to a term per point."""
    product = points @ prototypes.mT - prototypes.square().sum(-1).unsqueeze(-2) / 2
    return product / points.shape[-1]


WRITES["allocate_by_content"] = AllocateByContentWrite
