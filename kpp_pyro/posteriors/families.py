"""Families of variational posteriors q(value | context), each with the same loc and scale from its networks."""

from __future__ import annotations

import math

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor, nn

from kpp_pyro.distributions.flow import CouplingFlow, FlowNormal
from kpp_pyro.distributions.low_rank_normal import LowRankNormal
from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.posteriors.interface import POSTERIORS, Posterior

_LARGEST_RANK = 4
_START = 0.01  # of a factor, beside scales of about 0.1


class MeanFieldPosterior(Posterior):
    """N(loc, diag(scale^2)): the context says no more."""

    closed_kl = True

    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> Distribution:
        """Normal of independent scalars."""
        return DiagonalNormal(loc, scale, len(self.event_shape))


class LowRankPosterior(Posterior):
    """N(loc, diag(scale^2) + F F^T), with a few columns of F linear in the context; starts near the mean field."""

    closed_kl = True

    def __init__(self, context_size: int, event_shape: Size) -> None:
        super().__init__(context_size, event_shape)
        size = self.event_shape.numel()
        self.rank = min(_LARGEST_RANK, size)
        self.to_factor = nn.Linear(context_size, size * self.rank)
        nn.init.normal_(self.to_factor.weight, std=_START / math.sqrt(context_size))
        nn.init.normal_(self.to_factor.bias, std=_START)  # at zero F would have no gradient

    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> Distribution:
        """Normal with correlations."""
        factor = self.to_factor(context).unflatten(-1, (*self.event_shape, self.rank))
        return LowRankNormal(loc, scale, factor, len(self.event_shape))


class FlowPosterior(Posterior):
    """A normalising flow that sees the context, with location and scale after it; starts near the mean field."""

    closed_kl = False

    def __init__(self, context_size: int, event_shape: Size) -> None:
        super().__init__(context_size, event_shape)
        self.flow = CouplingFlow(self.event_shape.numel(), context_size)

    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> Distribution:
        """Flow of a normal."""
        return FlowNormal(loc, scale, self.flow(context), len(self.event_shape))


POSTERIORS["mean_field"] = MeanFieldPosterior
POSTERIORS["low_rank"] = LowRankPosterior
POSTERIORS["flow"] = FlowPosterior
