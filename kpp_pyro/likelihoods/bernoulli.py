"""The Bernoulli likelihood of binary images, and the binarization of grey images.

Logits are float32: a Bernoulli log-probability in bfloat16 is wrong by about one nat per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor

from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import ExpandsOnce
from kpp_pyro.likelihoods.interface import LIKELIHOODS, Likelihood

_IMAGE_DIMS = 3  # (C, H, W)

Binarization = Literal["dynamic", "static", "threshold"]

STATIC_BINARIZATION_SEED = 20210503
"""The seed of every static binarization. Changing it changes the test sets and all reported numbers."""


class BernoulliImage(ExpandsOnce, dist.Independent):  # type: ignore[override]  # in Pyro itself
    """`Bernoulli(logits=logits).to_event(3)`, faster: see `ExpandsOnce` and `log_bernoulli`.

    Args:
        logits: (..., C, H, W).
        validate_args: as in any Pyro distribution.
    """

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(dist.Bernoulli(logits=logits, validate_args=validate_args), _IMAGE_DIMS, validate_args)

    def _expanded(self, batch_shape: Size) -> BernoulliImage:
        return BernoulliImage(self.base_dist.logits.expand(batch_shape + self.event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(x | z) of images (..., C, H, W) in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
            self.base_dist._validate_sample(value)
        return log_bernoulli(self.base_dist.logits, value).flatten(-_IMAGE_DIMS).sum(-1)


def log_bernoulli(logits: Tensor, value: Tensor) -> Tensor:
    """value ln sigmoid(logits) + (1 - value) ln sigmoid(-logits) in nats, for values between 0 and 1; shapes broadcast.

    On a CPU it is computed as value logits - max(logits, 0) + ln sigmoid(|logits|), without the `log1p` of torch's
    `binary_cross_entropy_with_logits`, which takes several times as long as all the rest.
    """
    logits, value = torch.broadcast_tensors(logits, value)
    if logits.is_cuda:
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none")
    return _LogBernoulli.apply(logits, value)  # type: ignore[no-any-return, no-untyped-call]


class _LogBernoulli(torch.autograd.Function):
    """`log_bernoulli` in few passes over memory, with the gradient value - sigmoid(logits) in the logits."""

    @staticmethod
    def forward(context: Any, logits: Tensor, value: Tensor) -> Tensor:
        context.save_for_backward(logits, value)
        # The first two terms cancel for certain pixels, exactly only if they meet before the small third one.
        return (value * logits).sub_(logits.relu()).add_(logits.abs().sigmoid_().log_())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        logits, value = context.saved_tensors
        return gradient * (value - logits.sigmoid()), gradient * logits


@dataclass(frozen=True)
class BernoulliLikelihood(Likelihood):
    """p(x | z) with independent Bernoulli pixels, {0, 1}; the decoder gives their logits."""

    levels: int = 2

    def decoder_channels(self, image_channels: int) -> int:
        """C: one logit for each channel."""
        return image_channels

    def _distribution(self, outputs: Tensor, image_channels: int) -> Distribution:
        return BernoulliImage(outputs)


LIKELIHOODS["bernoulli"] = BernoulliLikelihood()


def binarize(pixels: Tensor, how: Literal["dynamic", "threshold"], generator: torch.Generator | None = None) -> Tensor:
    """Binarize intensities: draw each pixel from Bernoulli(pixels), or compare it with 1/2.

    Args:
        pixels: intensities in [0, 1], float, any shape.
        how: "dynamic" to draw, "threshold" to compare.
        generator: for "dynamic". Draws are made on the generator's device, so that a CPU generator gives the same bits
            on any device.

    Returns:
        float32 of the same shape in {0, 1}.

    Raises:
        InputError: any other `how`.
    """
    if how == "threshold":
        return (pixels > 0.5).float()
    if how == "dynamic":
        device = pixels.device if generator is None else generator.device
        level = torch.rand(pixels.shape, generator=generator, dtype=torch.float32, device=device)
        return (level.to(pixels.device) < pixels).float()
    raise InputError(f"how: expected 'dynamic' or 'threshold', found {how!r}")


def binarize_once(images: Tensor) -> Tensor:
    """Static binarization of a whole split: draw each pixel from Bernoulli(images / 255) with the fixed seed.

    The bits depend on an image's position in the split: binarize a whole split, never a part of it.

    Args:
        images: uint8, any shape.

    Returns:
        uint8 of the same shape in {0, 255}, the same bits on any device.

    Raises:
        InputError: a type other than uint8.
    """
    if images.dtype != torch.uint8:
        raise InputError(f"images: expected uint8 to binarize once, found {images.dtype}")
    generator = torch.Generator().manual_seed(STATIC_BINARIZATION_SEED)
    # A level uniform on 0..254 is below v with probability v / 255 exactly, in a quarter of the storage of floats.
    level = torch.randint(0, 255, images.shape, dtype=torch.uint8, generator=generator)
    return (level.to(images.device) < images).to(torch.uint8) * 255


def binarize_alone(image: Tensor, number: int) -> Tensor:
    """Static binarization of one image, for splits that are too large to be loaded as a whole.

    The bits depend on the fixed seed and the image's number alone. They differ from those of `binarize_once`.

    Args:
        image: uint8, any shape.
        number: of the image in its split.

    Returns:
        uint8 of the same shape in {0, 255}.
    """
    random = np.random.default_rng([STATIC_BINARIZATION_SEED, number])
    level = torch.from_numpy(random.integers(0, 255, tuple(image.shape), dtype=np.uint8))
    return (level < image).to(torch.uint8) * 255
