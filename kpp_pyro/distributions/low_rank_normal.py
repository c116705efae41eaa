"""The normal distribution with a diagonal plus low-rank covariance."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Size, Tensor
from torch.distributions import Independent, Normal, constraints, register_kl

from kpp_pyro.fast_pyro import ExpandsOnce


class LowRankNormal(ExpandsOnce, TorchDistribution):
    """N(loc, diag(scale^2) + F F^T) over events of any number of dimensions, which are flattened to D scalars.

    The same distribution as torch's `LowRankMultivariateNormal`, whose Cholesky decomposition would synchronise with
    the GPU. Here the few columns of F are removed from the covariance one at a time (`_whitening`).

    Args:
        loc: (..., *event).
        scale: (..., *event), positive.
        factor: F, (..., *event, rank).
        event_dims: number of event dimensions.
        batch_shape: that of loc if None.
        validate_args: as in any Pyro distribution.
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

    def _expanded(self, batch_shape: Size) -> LowRankNormal:
        dims = len(self.event_shape)
        return LowRankNormal(self.loc, self.scale, self.factor, dims, batch_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All real tensors of the event shape."""
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
        diagonal, low_rank = (
            self.loc.new_empty(shape),
            self.loc.new_empty(*shape[: -self.event_dim], self.factor.shape[-1]),
        )
        coefficients = low_rank.normal_().view(*low_rank.shape[:-1], *[1] * self.event_dim, -1)
        return self.loc + self.scale * diagonal.normal_() + (self.factor * coefficients).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        standard = ((value - self.loc) / self.scale).flatten(-self.event_dim)  # (..., D)
        updates, log_det = self._whitening()
        for column, size in updates:
            standard = _whitened(standard, column, size)
        terms = -0.5 * (standard.square().sum(-1) + log_det) - 0.5 * math.log(2 * math.pi) * standard.shape[-1]
        return terms.expand(broadcast_shape(terms.shape, self.batch_shape))

    def _whitening(self) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Rank-one updates that whiten the covariance, and its log-determinant.

        After division by the scale, the covariance is I + W W^T. Let w be the first column of W. Multiplication by
        (I + w w^T)^(-1/2) from both sides leaves I + W' W'^T, where W' holds the other columns multiplied by the same
        matrix. The step is repeated for W'. It is numerically stable for large W.

        Returns:
            Columns w (..., D) with their 1 + w^T w (..., 1), and the log-determinant (...).
        """
        rest = list((self.factor / self.scale.unsqueeze(-1)).flatten(-self.event_dim - 1, -2).unbind(-1))
        updates, log_det = [], 2 * self.scale.log().flatten(-self.event_dim).sum(-1)
        while rest:
            column = rest.pop(0)
            size = 1 + column.square().sum(-1, keepdim=True)
            rest = [_whitened(other, column, size) for other in rest]
            updates.append((column, size))
            log_det = log_det + size.squeeze(-1).log()
        return updates, log_det


def _whitened(vector: Tensor, column: Tensor, size: Tensor) -> Tensor:
    """(I + w w^T)^(-1/2) times a vector (..., D), for a column w (..., D) with `size` 1 + w^T w (..., 1)."""
    product = (column * vector).sum(-1, keepdim=True)
    return vector - column * (product / (size + size.sqrt()))


@register_kl(LowRankNormal, Independent)
def _kl_low_rank_normal(q: LowRankNormal, p: Independent) -> Tensor:
    """KL(q || p) in nats, (...), to a normal distribution of independent scalars."""
    base = p.base_dist
    if not isinstance(base, Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError("closed form only for a normal distribution of the same event")
    spread = (q.scale.square() + q.factor.square().sum(-1)) / base.scale.square()
    terms = spread + ((q.loc - base.loc) / base.scale).square() - 1 + 2 * base.scale.log()
    kl = 0.5 * (terms.flatten(-q.event_dim).sum(-1) - q._whitening()[1])
    return kl.expand(broadcast_shape(kl.shape, q.batch_shape))
