"""Priors of keys, p(y)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor, nn
from torch.distributions import constraints

from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import DiagonalNormal, ExpandsOnce
from kpp_pyro.flow import CouplingFlow, FlowNormal

_PSEUDO_EPISODES, _PSEUDO_IMAGES = 4, 8


class KeyPrior(nn.Module, ABC):
    """p(y), of every key by itself.

    Args:
        key_shape: event shape of a key, such as (R, 3).
        image_shape: (C, H, W), of the images that keys belong to.

    Attributes:
        closed_kl: whether `torch.distributions.kl_divergence` knows the KL of a normal to it.
    """

    closed_kl: ClassVar[bool]

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.key_shape, self.image_shape = Size(key_shape), image_shape

    @abstractmethod
    def forward(self) -> Distribution:
        """p(y): batch (), event `key_shape`."""

    def bind_guide(self, key_posterior: Callable[[Tensor], Distribution]) -> None:
        """Take note of the guide's q(y|X), from episodes (E, T, C, H, W) to batch (E, T), if it matters."""
        return None


class StandardNormalPrior(KeyPrior):
    """N(0, I), as in the paper."""

    closed_kl = True
    loc: Tensor
    scale: Tensor

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__(key_shape, image_shape)
        self.register_buffer("loc", torch.zeros(self.key_shape), persistent=False)
        self.register_buffer("scale", torch.ones(self.key_shape), persistent=False)

    def forward(self) -> Distribution:
        """Nothing is learned."""
        return DiagonalNormal(self.loc, self.scale, len(self.key_shape))


class LearnedGaussianPrior(KeyPrior):
    """N(loc, diag(scale^2)), learned; starts as N(0, I)."""

    closed_kl = True

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__(key_shape, image_shape)
        self.loc = nn.Parameter(torch.zeros(self.key_shape))
        self.log_scale = nn.Parameter(torch.zeros(self.key_shape))

    def forward(self) -> Distribution:
        """One location and scale for every scalar of a key."""
        return DiagonalNormal(self.loc, self.log_scale.exp(), len(self.key_shape))


class VampPrior(KeyPrior):
    """What the guide says of keys, on average over learned pseudo-episodes (Tomczak & Welling 2018).

        p(y) = 1/(E T) sum_{e,t} q(y_t | sigmoid(logits_e))

    The guide stays another module's: its parameters are none of the prior's, but receive gradients through it.
    """

    closed_kl = False

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__(key_shape, image_shape)
        self.logits = nn.Parameter(torch.randn(_PSEUDO_EPISODES, _PSEUDO_IMAGES, *image_shape))  # (E, T, C, H, W)
        self._key_posterior: Callable[[Tensor], Distribution] | None = None

    def bind_guide(self, key_posterior: Callable[[Tensor], Distribution]) -> None:
        """Take note of the guide's q(y|X), from episodes (E, T, C, H, W) to batch (E, T): a method, not a module."""
        self._key_posterior = key_posterior

    def forward(self) -> Distribution:
        """Mixture of E T key posteriors.

        Raises:
            InputError: it does not know the guide yet.
        """
        if self._key_posterior is None:
            raise InputError("key prior: expected bind_guide before its first use, found no key posterior")
        return EqualMixture(self._key_posterior(self.logits.sigmoid()))


class FlowPrior(KeyPrior):
    """A normalising flow of N(0, I); starts near it."""

    closed_kl = False
    loc: Tensor
    scale: Tensor

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__(key_shape, image_shape)
        self.flow = CouplingFlow(self.key_shape.numel())
        self.register_buffer("loc", torch.zeros(self.key_shape), persistent=False)
        self.register_buffer("scale", torch.ones(self.key_shape), persistent=False)

    def forward(self) -> Distribution:
        """Flow of a standard normal."""
        return FlowNormal(self.loc, self.scale, self.flow(), len(self.key_shape))


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


KEY_PRIORS: dict[str, type[KeyPrior]] = {
    "standard_normal": StandardNormalPrior,
    "learned_gaussian": LearnedGaussianPrior,
    "vamp": VampPrior,
    "flow": FlowPrior,
}
