"""Priors of keys, p(y): standard normal, learned Gaussian, VampPrior and normalising flow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor, nn

from kpp_pyro.distributions.equal_mixture import EqualMixture
from kpp_pyro.distributions.flow import CouplingFlow, FlowNormal
from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.priors.interface import KEY_PRIORS, KeyPrior

_PSEUDO_EPISODES, _PSEUDO_IMAGES = 4, 8


class StandardNormalPrior(KeyPrior):
    """N(0, I), as in the paper."""

    closed_kl = True
    closed_block_kl = True
    loc: Tensor
    scale: Tensor

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__(key_shape, image_shape)
        self.register_buffer("loc", torch.zeros(self.key_shape), persistent=False)
        self.register_buffer("scale", torch.ones(self.key_shape), persistent=False)

    def forward(self) -> Distribution:
        """N(0, I), without parameters."""
        return DiagonalNormal(self.loc, self.scale, len(self.key_shape))


class LearnedGaussianPrior(KeyPrior):
    """N(loc, diag(scale^2)) with learned loc and scale; N(0, I) at the start."""

    closed_kl = True

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__(key_shape, image_shape)
        self.loc = nn.Parameter(torch.zeros(self.key_shape))
        self.log_scale = nn.Parameter(torch.zeros(self.key_shape))

    def forward(self) -> Distribution:
        """The normal distribution, with one location and scale for every scalar of a key."""
        return DiagonalNormal(self.loc, self.log_scale.exp(), len(self.key_shape))


class VampPrior(KeyPrior):
    """The mean of the guide's q(y | X) over learned pseudo-episodes (VampPrior, Tomczak & Welling 2018).

        p(y) = 1/(E T) sum_{e,t} q(y_t | sigmoid(logits_e))

    The guide's parameters are not parameters of the prior, but receive gradients through it.
    """

    closed_kl = False
    made_of_guide = True

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__(key_shape, image_shape)
        self.logits = nn.Parameter(torch.randn(_PSEUDO_EPISODES, _PSEUDO_IMAGES, *image_shape))  # (E, T, C, H, W)
        self._key_posterior: Callable[[Tensor], Distribution] | None = None

    def bind_guide(self, key_posterior: Callable[[Tensor], Distribution]) -> None:
        """Store the guide's q(y | X), a function (not a module) from episodes (E, T, C, H, W) to batch shape (E, T)."""
        self._key_posterior = key_posterior

    def forward(self) -> Distribution:
        """The uniform mixture of E T key posteriors.

        Raises:
            InputError: `bind_guide` was not called.
        """
        if self._key_posterior is None:
            raise InputError("key prior: expected bind_guide before its first use, found no key posterior")
        return EqualMixture(self._key_posterior(self.logits.sigmoid()))


class FlowPrior(KeyPrior):
    """A normalising flow of N(0, I), near the identity at the start."""

    closed_kl = False
    smallest_event = 2
    loc: Tensor
    scale: Tensor

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__(key_shape, image_shape)
        self.flow = CouplingFlow(self.key_shape.numel())
        self.register_buffer("loc", torch.zeros(self.key_shape), persistent=False)
        self.register_buffer("scale", torch.ones(self.key_shape), persistent=False)

    def forward(self) -> Distribution:
        """The flow of a standard normal distribution."""
        return FlowNormal(self.loc, self.scale, self.flow(), len(self.key_shape))


KEY_PRIORS["standard_normal"] = StandardNormalPrior
KEY_PRIORS["learned_gaussian"] = LearnedGaussianPrior
KEY_PRIORS["vamp"] = VampPrior
KEY_PRIORS["flow"] = FlowPrior
