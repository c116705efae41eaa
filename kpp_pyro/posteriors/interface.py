"""What every family of posteriors offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor, nn


class Posterior(nn.Module, ABC):
    """A family of q(value | context), with what it takes beyond a location and a scale.

    Args:
        context_size: of the context.
        event_shape: of the value.

    Attributes:
        closed_kl: whether `torch.distributions.kl_divergence` knows its KL to a `DiagonalNormal`.
    """

    closed_kl: ClassVar[bool]

    def __init__(self, context_size: int, event_shape: Size) -> None:
        super().__init__()
        self.context_size, self.event_shape = context_size, Size(event_shape)

    @abstractmethod
    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> Distribution:
        """q of loc and scale (..., *event) and context (..., context_size): batch (...), event `event_shape`."""


POSTERIORS: dict[str, type[Posterior]] = {}
"""Families of posteriors by name; the file of each one registers it."""
