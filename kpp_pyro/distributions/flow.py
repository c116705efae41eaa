"""Normalising flows of affine couplings (Dinh, Sohl-Dickstein & Bengio 2017, RealNVP), optionally with a context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from pyro.distributions.transforms import ConditionalAffineCoupling, Permute
from pyro.distributions.util import broadcast_shape
from torch import Size, Tensor, nn
from torch.distributions import Transform, constraints

from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import ExpandsOnce

_LAYERS, _WIDTH = 4, 64
_LARGEST_LOG_SCALE = 2.0  # of one layer: Pyro's coupling clips at 3 and -5, where its gradients are wrong
_INITIAL_STD = 0.01  # of the last layer's parameters: the flow starts near the identity


class CouplingFlow(nn.Module):
    """Four affine couplings of vectors (..., D), near the identity at the start; the inverse costs as much as f.

    Each coupling shifts and scales one half of the vector by a function of the other half and of the context. Couplings
    alternate between the halves, and permutations change which scalars form a half.

    Args:
        size: D.
        context_size: number of scalars of the context; 0 for none.

    Raises:
        InputError: D below 2.
    """

    permutations: Tensor

    def __init__(self, size: int, context_size: int = 0) -> None:
        super().__init__()
        if size < 2:
            raise InputError(f"flow: expected an event of at least 2 scalars, found {size}")
        self.from_context = nn.Linear(context_size, _LAYERS * _WIDTH, bias=False) if context_size else None
        splits = [size // 2, size - size // 2] * (_LAYERS // 2)
        self.couplings = nn.ModuleList(
            ConditionalAffineCoupling(split, _CouplingNetwork(split, size - split)) for split in splits
        )
        orders = _orders(size)  # of the scalars in each layer's input
        inverses = [torch.arange(size), *(order.argsort() for order in orders)]
        permutations = [before[order] for before, order in zip(inverses, [*orders, torch.arange(size)], strict=True)]
        self.register_buffer("permutations", torch.stack(permutations), persistent=False)  # before, between and after

    def forward(self, context: Tensor | None = None) -> list[Transform]:
        """Transforms of vectors (..., D), in the order of their application.

        Args:
            context: (..., context_size); None if `context_size` is 0.
        """
        contexts: Sequence[Tensor | None] = [None] * _LAYERS
        if self.from_context is not None:
            contexts = self.from_context(context).chunk(_LAYERS, -1)  # once for all vectors
        first, *others = self.permutations.unbind()
        transforms: list[Transform] = [Permute(first)]
        for coupling, part, permutation in zip(self.couplings, contexts, others, strict=True):
            transforms += [coupling.condition(part), Permute(permutation)]  # type: ignore[operator]
        return transforms


class _CouplingNetwork(nn.Module):
    """From one half of a vector, and features of the context, to the shift and log-scale of the other half."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.from_half = nn.Linear(inputs, _WIDTH)
        self.head = nn.Linear(_WIDTH, 2 * outputs)
        nn.init.normal_(self.head.weight, std=_INITIAL_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, half: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and log-scale, (..., outputs) each."""
        hidden = self.from_half(half)
        shift, raw = self.head(F.silu(hidden if context is None else hidden + context)).chunk(2, -1)
        return shift, _LARGEST_LOG_SCALE * (raw / _LARGEST_LOG_SCALE).tanh()


def _orders(size: int) -> list[Tensor]:
    """The order of the scalars in each layer's input, of which a layer changes the second half.

    Orders come in pairs: the second layer of a pair has the reverse order, and each pair has other halves.
    """
    orders = []
    for pair in range(_LAYERS // 2):
        order = torch.arange(size)
        for _ in range(pair):
            order = torch.cat([order[::2], order[1::2]])
        orders += [order, order.flip(0)]
    return orders


class FlowNormal(ExpandsOnce, TorchDistribution):
    """loc + scale f(u), u ~ N(0, I), over events of any number of dimensions, which are flattened to D scalars.

    The identity f gives N(loc, scale^2). The flow comes before loc and scale, so that the shape of a narrow
    distribution does not depend on its location. Densities are computed from the value alone, without a cache of draws:
    a cached draw would make the density's gradient wrong for a detached value.

    Args:
        loc: (..., *event).
        scale: (..., *event), positive.
        transforms: f, of vectors (..., D).
        event_dims: number of event dimensions.
        batch_shape: that of loc if None.
        validate_args: as in any Pyro distribution.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        transforms: Sequence[Transform],
        event_dims: int = 1,
        batch_shape: Size | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.transforms = loc, scale, transforms
        batch, event = loc.shape[:-event_dims], loc.shape[-event_dims:]
        super().__init__(batch if batch_shape is None else batch_shape, event, validate_args=validate_args)

    def _expanded(self, batch_shape: Size) -> FlowNormal:
        dims = len(self.event_shape)
        return FlowNormal(self.loc, self.scale, self.transforms, dims, batch_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All real tensors of the event shape."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mode(self) -> Tensor:
        """loc + scale f(0), (..., *event): the centre of the distribution, not the maximum of its density."""
        return self._transform(self.loc.new_zeros(*self.batch_shape, self.event_shape.numel()))

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw (sample_shape, ..., *event)."""
        shape = self._extended_shape(sample_shape)
        return self._transform(self.loc.new_empty(shape).normal_().flatten(-self.event_dim))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        vector = ((value - self.loc) / self.scale).flatten(-self.event_dim)  # (..., D)
        log_det = self.scale.log().flatten(-self.event_dim).sum(-1)
        for transform in reversed(self.transforms):
            before = transform.inv(vector)
            log_det = log_det + transform.log_abs_det_jacobian(before, vector)
            vector = before
        terms = -0.5 * vector.square().sum(-1) - 0.5 * math.log(2 * math.pi) * vector.shape[-1] - log_det
        return terms.expand(broadcast_shape(terms.shape, self.batch_shape))

    def _transform(self, vector: Tensor) -> Tensor:
        """loc + scale f(u): vectors (..., D) to (..., *event)."""
        for transform in self.transforms:
            vector = transform(vector)
        return self.loc + self.scale * vector.unflatten(-1, self.event_shape)
