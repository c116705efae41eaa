"""Likelihoods of images, p(x | z), by name: from a decoder's output (..., C, H, W) to a distribution."""

from __future__ import annotations

from collections.abc import Callable

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from kpp_pyro.likelihoods.bernoulli import bernoulli_likelihood

LIKELIHOODS: dict[str, Callable[[Tensor], Distribution]] = {"bernoulli": bernoulli_likelihood}
