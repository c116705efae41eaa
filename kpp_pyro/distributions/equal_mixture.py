"""A mixture, in equal parts, of all of a distribution's batch."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from kpp_pyro.fast_pyro import ExpandsOnce


class EqualMixture(ExpandsOnce, TorchDistribution):
    """Mixture, in equal parts, of all of a distribution's batch.

    No parameter decides which component is drawn: draws carry the gradient of the components'.

    Args:
        components: any distribution.
        batch_shape: of the mixture.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, components: Any, batch_shape: Size = Size()) -> None:
        self.components = components
        super().__init__(batch_shape, components.event_shape)

    def _widened(self, batch_shape: Size) -> EqualMixture:
        return EqualMixture(self.components, batch_shape)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws of the components carry gradients."""
        return self.components.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        """That of the components."""
        return self.components.support

    @property
    def mean(self) -> Tensor:
        """Mean, (..., *event)."""
        return self._averaged(self.components.mean)

    @property
    def variance(self) -> Tensor:
        """Variance of every scalar, (..., *event): within and between components."""
        within, between = self.components.variance, (self.components.mean - self._mean_of_means()).square()
        return self._averaged(within + between)

    def sample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw (sample_shape, ..., *event)."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw from all components, and choose among the draws."""
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
        return log_prob.expand(torch.broadcast_shapes(batch, self.batch_shape))

    def _averaged(self, values: Tensor) -> Tensor:
        """Mean over the components, (N..., *event) to (..., *event)."""
        averaged = values.flatten(0, -self.event_dim - 1).mean(0)
        return averaged.expand(self.batch_shape + self.event_shape)

    def _mean_of_means(self) -> Tensor:
        return self.components.mean.flatten(0, -self.event_dim - 1).mean(0)
