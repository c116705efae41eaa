"""Likelihoods of images of 256 grey levels: a discretized logistic for each channel of a pixel, and mixtures of them.

The decoder's outputs near 0 mean locations in the middle of the range and broad scales. On the range [-1, 1]:

| parameter | of an output u           | at u = 0   | bounds                                                  |
|-----------|--------------------------|------------|---------------------------------------------------------|
| location  | u                        | 0          | none: beyond the range, an edge level is nearly certain |
| scale     | e^-8 + softplus(u - 0.8) | about e^-1 | e^-8, which is 0.04 grey levels                         |
| coupling  | tanh(u)                  | 0          | -1 and 1, as in PixelCNN++                              |

A memory that recalls exactly reaches the smallest scale. A level at its location then costs 2e-5 bits. Softplus
approaches the bound like an exponential. A clamped log-scale would have no gradient below the bound: a scale that once
got there could never grow again. For broad scales softplus is linear, and no scale overflows, even if it keeps growing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from kpp_pyro.likelihoods.interface import LIKELIHOODS, Likelihood
from kpp_pyro.likelihoods.logistic_image import LogisticImage
from kpp_pyro.networks.heads import positive

_SMALLEST_SCALE = math.exp(-8)  # on [-1, 1]
_INITIAL_RAW_SCALE = 1.2  # `positive` maps it to about e^-1


@dataclass(frozen=True)
class DiscretizedLogistic(Likelihood):
    """p(x | z) with a discretized logistic for each channel, whose location is linear in the channels before it.

    The decoder gives C locations, C scales and C (C - 1) / 2 couplings of channels.
    """

    levels: int = 256

    def decoder_channels(self, image_channels: int) -> int:
        """2 C + C (C - 1) / 2."""
        return sum(_sizes(image_channels))

    def _distribution(self, outputs: Tensor, image_channels: int) -> Distribution:
        log_weights = torch.zeros_like(outputs[..., :1, :, :], dtype=_precision(outputs))
        return _logistics(log_weights, outputs, image_channels, self.levels)


@dataclass(frozen=True)
class DiscretizedLogisticMixture(Likelihood):
    """p(x | z) with a mixture of K discretized logistics for each pixel (PixelCNN++, equations 2 and 3).

    The decoder gives K logits of the weights, K x C locations, K x C scales and K x C (C - 1) / 2 couplings.

    Attributes:
        components: K.
    """

    levels: int = 256
    components: int = 10

    def decoder_channels(self, image_channels: int) -> int:
        """K (1 + 2 C + C (C - 1) / 2)."""
        return self.components * (1 + sum(_sizes(image_channels)))

    def _distribution(self, outputs: Tensor, image_channels: int) -> Distribution:
        components, channels = self.components, outputs.shape[-3]
        logits, logistics = outputs.split([components, channels - components], -3)
        log_weights = logits.to(_precision(outputs)).log_softmax(-3)
        return _logistics(log_weights, logistics, image_channels, self.levels)


def _logistics(log_weights: Tensor, outputs: Tensor, image_channels: int, levels: int) -> LogisticImage:
    """K components of log-weights (..., K, H, W) and outputs (..., K (2 C + C (C - 1) / 2), H, W)."""
    components, sizes, half_range = log_weights.shape[-3], _sizes(image_channels), (levels - 1) / 2
    split = outputs.to(log_weights.dtype).split([components * size for size in sizes], -3)
    each = zip(split, sizes, strict=True)
    loc, raw_scale, raw_coupling = (part.unflatten(-3, (components, size)) for part, size in each)  # (..., K, C, H, W)
    scale = positive(raw_scale + _INITIAL_RAW_SCALE, _SMALLEST_SCALE)
    return LogisticImage(log_weights, loc * half_range, scale * half_range, raw_coupling.tanh(), levels)


def _sizes(image_channels: int) -> tuple[int, int, int]:
    """Locations, scales and couplings of one component."""
    return image_channels, image_channels, image_channels * (image_channels - 1) // 2


def _precision(outputs: Tensor) -> torch.dtype:
    """Precision of all that follows: float32, or float64 if the outputs are."""
    return torch.promote_types(outputs.dtype, torch.float32)


LIKELIHOODS["discretized_logistic"] = DiscretizedLogistic()
LIKELIHOODS["discretized_logistic_mixture"] = DiscretizedLogisticMixture()
