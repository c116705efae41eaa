"""The uniform mixture of all distributions in a batch."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Size, Tensor
from torch.distributions import constraints

from kpp_pyro.fast_pyro import ExpandsOnce


class EqualMixture(ExpandsOnce, TorchDistribution):
    """p(x) = 1/N sum_n p_n(x), over the N distributions in the batch of `components`.

    The choice of a component depends on no parameter, so that draws carry the gradient of the component's draws.

    Args:
        components: any distribution; its whole batch is mixed.
        batch_shape: of the mixture.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, components: Any, batch_shape: Size = Size()) -> None:
        self.components = components
        super().__init__(batch_shape, components.event_shape)

    def _expanded(self, batch_shape: Size) -> EqualMixture:
        return EqualMixture(self.components, batch_shape)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws of the components carry gradients."""
        return self.components.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        """Support of the components."""
        return self.components.support

    @property
    def mean(self) -> Tensor:
        """Mean, (..., *event)."""
        return self._averaged(self.components.mean)

    @property
    def variance(self) -> Tensor:
        """Variance of every scalar, (..., *event): the mean variance plus the variance of the means."""
        within, between = self.components.variance, (self.components.mean - self._mean_of_means()).square()
        return self._averaged(within + between)

    def sample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw (sample_shape, ..., *event)."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw (sample_shape, ..., *event): a draw of every component, of which one is chosen at random."""
        outer = Size(sample_shape) + self.batch_shape
        draws = self.components.rsample(outer).reshape(*outer, -1, *self.event_shape)  # (..., N, *event)
        chosen = torch.randint(draws.shape[len(outer)], outer, device=draws.device)
        chosen = chosen.view(*outer, *[1] * (1 + self.event_dim)).expand(*outer, 1, *self.event_shape)
        return draws.gather(len(outer), chosen).squeeze(len(outer))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        inner = self.components.batch_shape
        batch = value.shape[: value.dim() - self.event_dim]
        each = self.components.log_prob(value.view(*batch, *[1] * len(inner), *self.event_shape))
        log_prob = each.flatten(-len(inner)).logsumexp(-1) - math.log(inner.numel())
        return log_prob.expand(broadcast_shape(batch, self.batch_shape))

    def _averaged(self, values: Tensor) -> Tensor:
        """Mean over the components: (components, *event) to (..., *event)."""
        averaged = values.flatten(0, -self.event_dim - 1).mean(0)
        return averaged.expand(self.batch_shape + self.event_shape)

    def _mean_of_means(self) -> Tensor:
        """Mean of the components' means, (*event)."""
        return self.components.mean.flatten(0, -self.event_dim - 1).mean(0)
