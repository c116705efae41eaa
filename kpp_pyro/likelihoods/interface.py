"""The registry of likelihoods."""

from __future__ import annotations

from collections.abc import Callable

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

LIKELIHOODS: dict[str, Callable[[Tensor], Distribution]] = {}
"""p(x | z) by name, each registered by its own file: from a decoder's output (..., C, H, W) to a distribution."""
