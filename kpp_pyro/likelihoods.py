"""Likelihoods of images. Logits are float32: a Bernoulli in bfloat16 is wrong by about one nat per image."""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor

from kpp_pyro.fast_pyro import ExpandsOnce

_IMAGE_DIMS = 3


class BernoulliImage(ExpandsOnce, dist.Independent):  # type: ignore[override]  # in Pyro itself
    """`Bernoulli(logits=logits).to_event(3)`, which it is an instance of, with one pass over the pixels less.

    It expands once, and what it saves belongs to what `kpp_pyro.fast_pyro` does.

    Args:
        logits: (..., C, H, W).
    """

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(dist.Bernoulli(logits=logits, validate_args=validate_args), _IMAGE_DIMS, validate_args)

    def _widened(self, batch_shape: Size) -> BernoulliImage:
        return BernoulliImage(self.base_dist.logits.expand(batch_shape + self.event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(x|z) in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
            self.base_dist._validate_sample(value)
        logits, value = torch.broadcast_tensors(self.base_dist.logits, value)
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none").flatten(-_IMAGE_DIMS).sum(-1)


def bernoulli_likelihood(logits: Tensor) -> Distribution:
    """p(x|z) of binary images: independent Bernoulli pixels on logits (..., C, H, W); event shape (C, H, W)."""
    return BernoulliImage(logits)
