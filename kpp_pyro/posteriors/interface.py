"""Base class and registry of the families of variational posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor, nn


class Posterior(nn.Module, ABC):
    """A family of q(value | context). Location and scale are given; a family may have further parameters.

    Args:
        context_size: number of scalars of the context.
        event_shape: shape of the value.

    Attributes:
        closed_kl: whether `torch.distributions.kl_divergence` has a closed form for its KL to a `DiagonalNormal`.
        smallest_event: the fewest scalars that a value may have.
    """

    closed_kl: ClassVar[bool] = False
    smallest_event: ClassVar[int] = 1

    def __init__(self, context_size: int, event_shape: Size) -> None:
        super().__init__()
        self.context_size, self.event_shape = context_size, Size(event_shape)

    @abstractmethod
    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> Distribution:
        """q(value | context), batch shape (...), event shape `event_shape`.

        Args:
            loc: (..., *event).
            scale: (..., *event), positive.
            context: (..., context_size).
        """


POSTERIORS: dict[str, type[Posterior]] = {}
"""Families of posteriors by name; each is registered by its own file."""
