"""Three families of variational posteriors q(value | context): mean field, low-rank normal and normalising flow."""

from __future__ import annotations

import math

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor, nn

from kpp_pyro.distributions.flow import CouplingFlow, FlowNormal
from kpp_pyro.distributions.low_rank_normal import LowRankNormal
from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.posteriors.interface import POSTERIORS, Posterior

_LARGEST_RANK = 4
_INITIAL_FACTOR = 0.01  # standard deviation of the entries of F at the start; scales are about 0.1


class MeanFieldPosterior(Posterior):
    """N(loc, diag(scale^2)); the context is not used."""

    closed_kl = True

    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> Distribution:
        """A normal distribution of independent scalars."""
        return DiagonalNormal(loc, scale, len(self.event_shape))


class LowRankPosterior(Posterior):
    """N(loc, diag(scale^2) + F F^T): F has at most 4 columns, linear in the context, and is small at the start."""

    closed_kl = True

    def __init__(self, context_size: int, event_shape: Size) -> None:
        super().__init__(context_size, event_shape)
        size = self.event_shape.numel()
        self.rank = min(_LARGEST_RANK, size)
        self.to_factor = nn.Linear(context_size, size * self.rank)
        nn.init.normal_(self.to_factor.weight, std=_INITIAL_FACTOR / math.sqrt(context_size))
        nn.init.normal_(self.to_factor.bias, std=_INITIAL_FACTOR)  # at F = 0 the gradient of F F^T is zero

    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> Distribution:
        """A normal distribution with correlated scalars."""
        factor = self.to_factor(context).unflatten(-1, (*self.event_shape, self.rank))
        return LowRankNormal(loc, scale, factor, len(self.event_shape))


class FlowPosterior(Posterior):
    """loc + scale f(u; context), u ~ N(0, I), with a normalising flow f that is near the identity at the start."""

    closed_kl = False
    smallest_event = 2

    def __init__(self, context_size: int, event_shape: Size) -> None:
        super().__init__(context_size, event_shape)
        self.flow = CouplingFlow(self.event_shape.numel(), context_size)

    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> Distribution:
        """A normalising flow of a standard normal."""
        return FlowNormal(loc, scale, self.flow(context), len(self.event_shape))


POSTERIORS["mean_field"] = MeanFieldPosterior
POSTERIORS["low_rank"] = LowRankPosterior
POSTERIORS["flow"] = FlowPosterior
