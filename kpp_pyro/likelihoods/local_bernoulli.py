"""A likelihood of binary images that predicts each pixel from the decoder and from four pixels before it.

It is to `bernoulli` what `local_autoregressive` is to `discretized_logistic`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor
from torch.distributions import constraints

from kpp_pyro.fast_pyro import ExpandsOnce
from kpp_pyro.likelihoods.bernoulli import log_bernoulli
from kpp_pyro.likelihoods.interface import LIKELIHOODS, Likelihood
from kpp_pyro.likelihoods.neighbours import NEIGHBOURS, neighbours_of, pixel_after_pixel


@dataclass(frozen=True)
class LocalBernoulli(Likelihood):
    """p(x | z) = prod_i Bernoulli(x_i | four neighbours of x_i, z), i row by row.

    The decoder gives a logit and four coefficients of neighbours for each pixel and channel.
    """

    levels: int = 2

    def decoder_channels(self, image_channels: int) -> int:
        """5 C: C logits, then the coefficients of each channel."""
        return (1 + len(NEIGHBOURS)) * image_channels

    def _distribution(self, outputs: Tensor, image_channels: int) -> Distribution:
        coefficients = outputs[..., image_channels:, :, :].unflatten(-3, (image_channels, len(NEIGHBOURS)))
        return LocalBernoulliImage(outputs[..., :image_channels, :, :], coefficients)


class LocalBernoulliImage(ExpandsOnce, TorchDistribution):
    """Binary images; each pixel is Bernoulli with a logit linear in its four neighbours before it.

    The logit of pixel i is logit_i + sum_n a_in y_in. y_in is the neighbour n, 0 or 1, and 0 beyond an edge.

    Args:
        logits: where all neighbours are 0, (..., C, H, W).
        coefficients: a, (..., C, 4, H, W).
        validate_args: as in any Pyro distribution: refuse images of other values than 0 and 1.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 3)

    def __init__(self, logits: Tensor, coefficients: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.coefficients = logits, coefficients
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Each pixel's mean where its neighbours are their means, (..., C, H, W): a stand-in for the mean of images."""
        return self._pixel_after_pixel(torch.sigmoid)

    @property
    def mode(self) -> Tensor:
        """Each pixel's most probable value where its neighbours have theirs, (..., C, H, W)."""
        return self._pixel_after_pixel(lambda logits: (logits > 0).to(logits.dtype))

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw images (sample_shape, ..., C, H, W) in 2 H + W - 2 draws, one after the other."""
        drawn = self.expand(Size(sample_shape) + self.batch_shape)
        return drawn._pixel_after_pixel(lambda logits: logits.sigmoid().bernoulli())

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(x | z) of images (..., C, H, W) in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        given = self.logits + (self.coefficients * neighbours_of(value)).sum(-3)
        return log_bernoulli(given, value).sum((-3, -2, -1))

    def _expanded(self, batch_shape: Size) -> LocalBernoulliImage:
        logits = self.logits.expand(batch_shape + self.event_shape)
        coefficients = self.coefficients.expand(batch_shape + self.coefficients.shape[-4:])
        return LocalBernoulliImage(logits, coefficients, validate_args=False)

    def _pixel_after_pixel(self, value: Callable[[Tensor], Tensor]) -> Tensor:
        def pixels(rows: Tensor, columns: Tensor, neighbours: Tensor) -> Tensor:
            effects = self.coefficients[..., rows, columns] * neighbours
            return value(self.logits[..., rows, columns] + effects.sum(-2))

        return pixel_after_pixel(pixels, self.logits.shape, self.logits)


LIKELIHOODS["local_bernoulli"] = LocalBernoulli()
