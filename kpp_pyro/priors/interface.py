"""What every prior of keys offers, and what a prior of latents is made of."""

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
    """p(y), of every key by itself.

    Args:
        key_shape: event shape of a key, such as (R, 3).
        image_shape: (C, H, W), of the images that keys belong to.

    Attributes:
        closed_kl: whether `torch.distributions.kl_divergence` knows the KL of a normal to it.
        made_of_guide: whether it is made of the guide's q(y|x), which must then need no memory.
    """

    closed_kl: ClassVar[bool]
    made_of_guide: ClassVar[bool] = False

    def __init__(self, key_shape: Size, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.key_shape, self.image_shape = Size(key_shape), image_shape

    @abstractmethod
    def forward(self) -> Distribution:
        """p(y): batch (), event `key_shape`."""

    def bind_guide(self, key_posterior: Callable[[Tensor], Distribution]) -> None:
        """Take note of the guide's q(y|X), from episodes (E, T, C, H, W) to batch (E, T), if it matters."""
        return None


@dataclass(frozen=True)
class LatentPriorParts:
    """What p(z | M, y) of Kanerva++ is made of.

    Attributes:
        layout: of the memory.
        latent_size: D.
        smallest_scale: lower bound of learned scales.
        code: by which blocks hold signs; numbers if None.
        semantic: whether keys may read a block for what it says of images that were not written.
        width: units of its networks, if it has any.
    """

    layout: MemoryLayout
    latent_size: int
    smallest_scale: float
    code: SignCode | None
    semantic: bool
    width: int


KEY_PRIORS: dict[str, type[KeyPrior]] = {}
"""Priors of keys by name; the file of each one registers it."""
LATENT_PRIORS: dict[str, Callable[[LatentPriorParts], nn.Module]] = {}
"""Priors of latents by name: from their parts to a network with a `latent_size`, blocks to loc and scale."""
