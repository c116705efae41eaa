"""Likelihoods of images. Logits are float32: a Bernoulli in bfloat16 is wrong by about one nat per image."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor


def bernoulli_likelihood(logits: Tensor) -> Distribution:
    """p(x|z) of binary images: independent Bernoulli pixels on logits (..., C, H, W); event shape (C, H, W)."""
    return dist.Bernoulli(logits=logits).to_event(3)
