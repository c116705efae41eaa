"""Base class of key priors, constructor arguments of latent priors, and the registries of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor, nn

from kpp_pyro.memory.blocks import MemoryLayout
from kpp_pyro.memory.sign_code import SignCode


class KeyPrior(nn.Module, ABC):
    """p(y); keys are independent.

    Args:
        key_shape: event shape of a key, such as (R, 3).
        image_shape: (C, H, W) of the images.

    Attributes:
        closed_kl: whether `torch.distributions.kl_divergence` has a closed form for the KL of a normal to it.
        closed_block_kl: whether it has one for the KL of a `BlockKey` to it.
        smallest_event: the fewest scalars that a key may have.
        made_of_guide: whether p(y) is computed from the guide's q(y | X), which must then not depend on a memory.
    """

    closed_kl: ClassVar[bool] = False
    closed_block_kl: ClassVar[bool] = False
    smallest_event: ClassVar[int] = 1
    made_of_guide: ClassVar[bool] = False

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.key_shape, self.image_shape = Size(key_shape), image_shape

    @abstractmethod
    def forward(self) -> Distribution:
        """p(y), batch shape (), event shape `key_shape`."""

    def bind_guide(self, key_posterior: Callable[[Tensor], Distribution]) -> None:
        """Store the guide's q(y | X) if `made_of_guide`; it maps episodes (E, T, C, H, W) to batch shape (E, T)."""
        return None


@dataclass(frozen=True)
class LatentPriorParts:
    """Constructor arguments of p(z | M, y) of Kanerva++.

    Attributes:
        layout: of the memory.
        latent_size: D.
        smallest_scale: lower bound of learned scales.
        code: sign code of the blocks' scalars; None if blocks hold latents unchanged.
        semantic: whether keys may read a block semantically, see `SemanticReading`.
        width: number of units of its networks, if it has any.
    """

    layout: MemoryLayout
    latent_size: int
    smallest_scale: float
    code: SignCode | None
    semantic: bool
    width: int


@dataclass(frozen=True)
class LatentPriorKind:
    """A registered prior of latents.

    Attributes:
        build: builds a network from blocks to loc and scale, with an attribute `latent_size`.
        reads: whether it depends on what is read.
    """

    build: Callable[[LatentPriorParts], nn.Module]
    reads: bool = True


KEY_PRIORS: dict[str, type[KeyPrior]] = {}
"""Priors of keys by name; each is registered by its own file."""
LATENT_PRIORS: dict[str, LatentPriorKind] = {}
"""Priors of latents by name; each is registered by its own file."""
