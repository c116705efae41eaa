"""Priors of memories, p(M): flat, and standard normal. `autoregressive.py` has the learned one."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.priors.interface import MEMORY_PRIORS, MemoryPrior, MemoryPriorKind, MemoryPriorParts


class StandardNormalMemory(MemoryPrior):
    """N(0, I): blocks are independent, so that a memory says nothing of an image that was not written to it."""

    zeros: Tensor

    def __init__(self, block_size: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(block_size), persistent=False)

    def next_block(self, blocks: Tensor, temperature: float = 1.0) -> Distribution:
        """N(0, temperature^2 I), event (S,), batch (...) of blocks (..., n, S)."""
        return DiagonalNormal(self.zeros, torch.full_like(self.zeros, temperature)).expand(blocks.shape[:-2])

    def forward(self, blocks: Tensor) -> Tensor:
        """ln p(M_n) of each block in nats, (..., N), of blocks (..., N, S)."""
        return self.next_block(blocks.unsqueeze(-2)).log_prob(blocks)

    def kl_of_normal(self, loc: Tensor, scale: Tensor) -> Tensor:
        """KL(N(loc, scale^2) || N(0, I)) of each block in nats, (..., N), of loc and scale (..., N, S)."""
        return 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(-1)


def _standard_normal(parts: MemoryPriorParts) -> MemoryPrior:
    return StandardNormalMemory(parts.block_size)


MEMORY_PRIORS["flat"] = MemoryPriorKind(None)
MEMORY_PRIORS["standard_normal"] = MemoryPriorKind(_standard_normal, closed_kl=True)
