"""The normal distribution of vectors, in a few operations: every density of a training step but the image's."""

from __future__ import annotations

import math

import pyro.distributions as dist
from torch import Size, Tensor

from kpp_pyro.expansion import ExpandsOnce


class DiagonalNormal(ExpandsOnce, dist.Independent):  # type: ignore[override]  # in Pyro itself
    """`Normal(loc, scale).to_event(event_dims)`, which it is an instance of.

    It expands once (`ExpandsOnce`), and takes half the operations of torch's log-density of a normal: both cost more
    than the arithmetic where events are small.
    """

    def __init__(self, loc: Tensor, scale: Tensor, event_dims: int = 1, validate_args: bool | None = None) -> None:
        super().__init__(dist.Normal(loc, scale, validate_args=validate_args), event_dims, validate_args)

    def _widened(self, batch_shape: Size) -> DiagonalNormal:
        shape = batch_shape + self.event_shape
        loc, scale = self.base_dist.loc.expand(shape), self.base_dist.scale.expand(shape)
        return DiagonalNormal(loc, scale, len(self.event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        loc, scale, dims = self.base_dist.loc, self.base_dist.scale, len(self.event_shape)
        standard = (value - loc) / scale
        terms = standard.square() * -0.5 - scale.log()
        return terms.flatten(-dims).sum(-1) - 0.5 * math.log(2 * math.pi) * self.event_shape.numel()
