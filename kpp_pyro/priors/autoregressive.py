"""The learned prior of memories: block after block, a mixture of normals that the blocks before offer."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.networks.causal import CausalAttention
from kpp_pyro.networks.heads import InPrecision
from kpp_pyro.priors.interface import MEMORY_PRIORS, MemoryPrior, MemoryPriorKind, MemoryPriorParts

_WIDTH, _DEPTH, _HEADS = 192, 2, 4  # of the attention


class AutoregressivePrior(MemoryPrior):
    """Each block is like one of the blocks before it, or new: N(0, I) at the start of training.

        p(M_n | M_1 ... M_n-1) = sum_{i=0}^{n-1} w_ni N(M_n; mu_i, sigma_i^2),   w_n = softmax_i(q_n . k_i)

    f_i are features of blocks 1 to i (`CausalAttention`): mu_i, sigma_i and k_i are linear in f_i, and q_n in f_n-1.
    Component 0 is what is expected of a block that is like none before it. Component i is what is expected of one that
    is like block i, given the blocks up to it. A single normal would have to cover all the kinds of blocks there are
    in a memory. With the blocks as exemplars, this is the idea of the exemplar VAE (Norouzi, Fleet & Norouzi 2020).

    Blocks have no positions. In training the order of the blocks is random, so that no order is preferred.

    Args:
        block_size: S, scalars of a block.
        dtype: precision of the network.
    """

    def __init__(self, block_size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.features = InPrecision(CausalAttention(block_size, _WIDTH, _DEPTH, _HEADS), dtype)
        self.component = nn.Linear(_WIDTH, 2 * block_size)
        self.query, self.likeness = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH, bias=False)
        nn.init.zeros_(self.component.weight)
        nn.init.zeros_(self.component.bias)

    def next_block(self, blocks: Tensor) -> Distribution:
        """p(M_n+1 | M_1 ... M_n), event (S,), batch (...) of blocks (..., n, S): a mixture of n + 1 normals."""
        features = self.features(blocks)  # (..., n + 1, F)
        loc, log_scale = self._components(features)
        weights = dist.Categorical(logits=self._scores(features)[..., -1, :])
        return dist.MixtureSameFamily(weights, dist.Normal(loc, log_scale.exp()).to_event(1))

    def forward(self, blocks: Tensor) -> Tensor:
        """ln p(M_n | M_1 ... M_n-1) of each block in nats, (..., N), of blocks (..., N, S); in any order to train."""
        if not self.training:
            return self._log_prob(blocks)
        order = torch.rand(blocks.shape[-2], device=blocks.device).argsort()
        return self._log_prob(blocks[..., order, :])[..., order.argsort()]

    def _log_prob(self, blocks: Tensor) -> Tensor:
        features = self.features(blocks[..., :-1, :])  # (..., N, F)
        loc, log_scale = self._components(features)
        precision = (-2 * log_scale).exp()
        # ln N(M_n; mu_i, sigma_i^2) of every n and i, (..., N, N), by matrix products
        own = (loc.square() * precision / 2 + log_scale).sum(-1) + 0.5 * math.log(2 * math.pi) * blocks.shape[-1]
        densities = blocks @ (loc * precision).mT - blocks.square() @ (precision / 2).mT - own.unsqueeze(-2)
        later = torch.ones(densities.shape[-2:], dtype=torch.bool, device=blocks.device).triu(1)
        scores = self._scores(features).masked_fill(later, -torch.inf).log_softmax(-1)
        return (scores + densities.masked_fill(later, 0.0)).logsumexp(-1)

    def _components(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """mu_i and ln sigma_i, (..., n + 1, S) each, of features (..., n + 1, F)."""
        loc, log_scale = self.component(features).chunk(2, -1)
        return loc, log_scale

    def _scores(self, features: Tensor) -> Tensor:
        """q_n . k_i / sqrt(F), (..., n, i)."""
        return self.query(features) @ self.likeness(features).mT / math.sqrt(features.shape[-1])


def _autoregressive(parts: MemoryPriorParts) -> MemoryPrior:
    return AutoregressivePrior(parts.block_size, parts.dtype)


MEMORY_PRIORS["autoregressive"] = MemoryPriorKind(_autoregressive)
