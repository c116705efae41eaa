"""A mixture whose components take the scalars of a vector one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Size, Tensor
from torch.distributions import Categorical, constraints

from kpp_pyro.fast_pyro import DiagonalNormal, ExpandsOnce

Conditionals = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Values (..., S) and features (..., F) to loc and ln scale, (..., S) each; those of scalar s depend on x_<s only."""


def component_log_prob(conditionals: Conditionals, values: Tensor, features: Tensor) -> Tensor:
    """sum_s ln N(x_s; mu(x_<s, f), sigma(x_<s, f)^2) in nats, (...), of values (..., S) and features (..., F)."""
    loc, log_scale = conditionals(values, features)
    return DiagonalNormal(loc, log_scale.exp(), validate_args=False).log_prob(values)


class AutoregressiveMixture(ExpandsOnce, TorchDistribution):
    """p(x) = sum_i w_i prod_s N(x_s; mu(x_<s, f_i), sigma(x_<s, f_i)^2), event (S,). Its moments have no closed form.

    Args:
        conditionals: the network of all components.
        features: f_i, (..., I, F).
        logits: ln w_i up to a constant, (..., I).
        size: S.
        temperature: factor of all sigma, and of 1 / ln w_i: draws of a low one are near to what is most probable.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(
        self, conditionals: Conditionals, features: Tensor, logits: Tensor, size: int, temperature: float = 1.0
    ) -> None:
        self.conditionals, self.features, self.temperature = conditionals, features, temperature
        self.logits, self.log_weights = logits, (logits / temperature).log_softmax(-1)
        super().__init__(logits.shape[:-1], Size([size]), validate_args=False)

    def _expanded(self, batch_shape: Size) -> AutoregressiveMixture:
        features = self.features.expand(*batch_shape, *self.features.shape[-2:])
        logits = self.logits.expand(*batch_shape, -1)
        return AutoregressiveMixture(self.conditionals, features, logits, self.event_shape[0], self.temperature)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...), of values (..., S)."""
        batch = broadcast_shape(value.shape[:-1], self.batch_shape)
        of_each = value.unsqueeze(-2).expand(*batch, self.log_weights.shape[-1], -1)
        features = self.features.expand(*of_each.shape[:-1], -1)
        return (self.log_weights + component_log_prob(self._cooled, of_each, features)).logsumexp(-1)

    def _cooled(self, values: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.conditionals(values, features)
        return loc, log_scale + math.log(self.temperature)

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw values (sample_shape, ..., S): a component, and then one scalar after the other."""
        component = Categorical(logits=self.log_weights).sample(sample_shape)[..., None, None]
        features = self.features.expand(*component.shape[:-2], -1, -1)
        features = features.gather(-2, component.expand(*component.shape[:-1], features.shape[-1])).squeeze(-2)
        values = features.new_zeros(*features.shape[:-1], *self.event_shape)
        for scalar in range(values.shape[-1]):
            loc, log_scale = self._cooled(values, features)
            values[..., scalar] = torch.normal(loc[..., scalar], log_scale[..., scalar].exp())
        return values
