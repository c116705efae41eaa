"""A normal distribution whose covariance is a diagonal and a few directions."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Independent, Normal, constraints, register_kl

from kpp_pyro.fast_pyro import ExpandsOnce


class LowRankNormal(ExpandsOnce, TorchDistribution):
    """N(loc, diag(scale^2) + F F^T), over events of any number of dimensions, flattened.

    It is `LowRankMultivariateNormal` without a decomposition by a library, for which a GPU would be waited for: the
    directions are few, and are taken out one by one.

    Args:
        loc: (..., *event).
        scale: (..., *event).
        factor: F, (..., *event, rank).
        event_dims: of the event.
        batch_shape: of loc, where not wider.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "factor": constraints.real,
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        factor: Tensor,
        event_dims: int = 1,
        batch_shape: Size | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.factor = loc, scale, factor
        batch, event = loc.shape[:-event_dims], loc.shape[-event_dims:]
        super().__init__(batch if batch_shape is None else batch_shape, event, validate_args=validate_args)

    def _widened(self, batch_shape: Size) -> LowRankNormal:
        dims = len(self.event_shape)
        return LowRankNormal(self.loc, self.scale, self.factor, dims, batch_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Everything."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Mean, (..., *event)."""
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def mode(self) -> Tensor:
        """Mode, (..., *event)."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        """Variance of every scalar, (..., *event)."""
        variance = self.scale.square() + self.factor.square().sum(-1)
        return variance.expand(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw (sample_shape, ..., *event)."""
        shape = self._extended_shape(sample_shape)
        own, shared = self.loc.new_empty(shape), self.loc.new_empty(*shape[: -self.event_dim], self.factor.shape[-1])
        weights = shared.normal_().view(*shared.shape[:-1], *[1] * self.event_dim, -1)
        return self.loc + self.scale * own.normal_() + (self.factor * weights).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        standard = ((value - self.loc) / self.scale).flatten(-self.event_dim)  # (..., D)
        directions, log_det = self._whitening()
        for direction, size in directions:
            standard = _shortened(standard, direction, size)
        terms = -0.5 * (standard.square().sum(-1) + log_det) - 0.5 * math.log(2 * math.pi) * standard.shape[-1]
        return terms.expand(torch.broadcast_shapes(terms.shape, self.batch_shape))

    def _whitening(self) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Directions (..., D) with their sizes (..., 1), and the log-determinant of the covariance, (...).

        After division by the scale the covariance is I + W W^T. What makes it I + w w^T to I for its first column w
        leaves I + W' W'^T of the other columns, made shorter along w; and so on. Nothing is lost where W is large.
        """
        rest = list((self.factor / self.scale.unsqueeze(-1)).flatten(-self.event_dim - 1, -2).unbind(-1))
        directions, log_det = [], 2 * self.scale.log().flatten(-self.event_dim).sum(-1)
        while rest:
            direction = rest.pop(0)
            size = 1 + direction.square().sum(-1, keepdim=True)
            rest = [_shortened(column, direction, size) for column in rest]
            directions.append((direction, size))
            log_det = log_det + size.squeeze(-1).log()
        return directions, log_det


def _shortened(vector: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    """(I + w w^T)^(-1/2) times a vector (..., D), with 1 + w^T w given."""
    along = (direction * vector).sum(-1, keepdim=True)
    return vector - direction * (along / (size + size.sqrt()))


@register_kl(LowRankNormal, Independent)
def _kl_low_rank_normal(q: LowRankNormal, p: Independent) -> Tensor:
    base = p.base_dist
    if not isinstance(base, Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError("closed form only for a normal distribution of the same event")
    spread = (q.scale.square() + q.factor.square().sum(-1)) / base.scale.square()
    terms = spread + ((q.loc - base.loc) / base.scale).square() - 1 + 2 * base.scale.log()
    kl = 0.5 * (terms.flatten(-q.event_dim).sum(-1) - q._whitening()[1])
    return kl.expand(torch.broadcast_shapes(kl.shape, q.batch_shape))
