"""The learned prior of memories: block after block, a mixture of components that the blocks before offer."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from kpp_pyro.distributions.autoregressive_mixture import AutoregressiveMixture, component_log_prob
from kpp_pyro.networks.causal import CausalAttention
from kpp_pyro.networks.heads import InPrecision
from kpp_pyro.priors.interface import MEMORY_PRIORS, MemoryPrior, MemoryPriorKind, MemoryPriorParts

_WIDTH, _DEPTH, _HEADS = 192, 2, 4  # of the attention
_UNITS = 512  # of each of the two hidden layers of the components' network


class AutoregressivePrior(MemoryPrior):
    """Each block is like one of the blocks before it, or new: N(0, I) at the start of training.

        p(M_n | M_1 ... M_n-1) = sum_{i=0}^{n-1} w_ni p(M_n | f_i),     w_n = softmax_i(q_n . k_i)
        p(m | f) = prod_s N(m_s; mu_s, sigma_s^2),                      mu_s and sigma_s computed from m_<s and f

    f_i are features of blocks 1 to i (`CausalAttention`); k_i is linear in f_i, and q_n in f_n-1. Component 0 is what
    is expected of a block that is like none before it. Component i is what is expected of one that is like block i,
    given the blocks up to it. A single component would have to cover all the kinds of blocks there are in a memory.
    With the blocks as exemplars, this is the idea of the exemplar VAE (Norouzi, Fleet & Norouzi 2020).

    A masked network computes mu_s and sigma_s of all scalars at once (MADE: Germain, Gregor, Murray & Larochelle 2015).

    Blocks have no positions. In training the order of the blocks is random, so that no order is preferred.

    Args:
        block_size: S, scalars of a block.
        dtype: precision of the networks.
    """

    def __init__(self, block_size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.features = InPrecision(CausalAttention(block_size, _WIDTH, _DEPTH, _HEADS), dtype)
        self.component = InPrecision(_masked_network(block_size, _WIDTH), dtype)
        self.query, self.likeness = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH, bias=False)

    def next_block(self, blocks: Tensor, temperature: float = 1.0) -> Distribution:
        """p(M_n+1 | M_1 ... M_n), event (S,), batch (...) of blocks (..., n, S): a mixture of n + 1 components."""
        features = self.features(blocks)  # (..., n + 1, F)
        logits = self._scores(features[..., -1:, :], features).squeeze(-2)
        return AutoregressiveMixture(self.component, features, logits, blocks.shape[-1], temperature)

    def forward(self, blocks: Tensor) -> Tensor:
        """ln p(M_n | M_1 ... M_n-1) of each block in nats, (..., N), of blocks (..., N, S); in any order to train."""
        if not self.training:
            return self._log_prob(blocks)
        order = torch.rand(blocks.shape[-2], device=blocks.device).argsort()
        return self._log_prob(blocks[..., order, :])[..., order.argsort()]

    def _log_prob(self, blocks: Tensor) -> Tensor:
        features = self.features(blocks[..., :-1, :])  # (..., N, F)
        scores = self._scores(features, features)
        block, component = torch.tril_indices(*scores.shape[-2:], device=blocks.device)  # all pairs of n and i < n
        log_probs = component_log_prob(self.component, blocks[..., block, :], features[..., component, :])
        densities = torch.zeros_like(scores)
        densities[..., block, component] = log_probs
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        return (scores.masked_fill(later, -torch.inf).log_softmax(-1) + densities).logsumexp(-1)

    def _scores(self, of_blocks: Tensor, of_components: Tensor) -> Tensor:
        """q_n . k_i / sqrt(F), (..., n, i), of the features f_n-1 and f_i."""
        return self.query(of_blocks) @ self.likeness(of_components).mT / math.sqrt(_WIDTH)


def _masked_network(block_size: int, features: int) -> ConditionalAutoRegressiveNN:
    """Values (..., S) and features to loc and ln scale of each scalar given those before it; zero at the start."""
    units = max(block_size, min(_UNITS, 16 * block_size))
    order: Any = torch.arange(block_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for a block of one scalar
        network = ConditionalAutoRegressiveNN(
            block_size, features, [units, units], permutation=order, skip_connections=True, nonlinearity=nn.GELU()
        )
    last: Any = network.layers[-1], network.skip_layer
    for parameter in nn.ModuleList(last).parameters():
        nn.init.zeros_(parameter)
    return network


def _autoregressive(parts: MemoryPriorParts) -> MemoryPrior:
    return AutoregressivePrior(parts.block_size, parts.dtype)


MEMORY_PRIORS["autoregressive"] = MemoryPriorKind(_autoregressive, like="standard_normal")
