"""Base classes of key priors and memory priors, constructor arguments of priors, and their registries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
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
    """

    layout: MemoryLayout
    latent_size: int
    smallest_scale: float
    code: SignCode | None


@dataclass(frozen=True)
class LatentPriorKind:
    """A registered prior of latents.

    Attributes:
        build: builds a network from blocks to loc and scale; if `is_point`, to the latent itself.
        reads: whether it depends on what is read.
        is_point: whether the latent is a function of what is read, and no random variable.
    """

    build: Callable[[LatentPriorParts], nn.Module]
    reads: bool = True
    is_point: bool = False


class MemoryPrior(nn.Module, ABC):
    """p(M) = prod_n p(M_n | M_1 ... M_n-1) of the N blocks of a memory; a block is S scalars."""

    @abstractmethod
    def next_block(self, blocks: Tensor, temperature: float = 1.0) -> Distribution:
        """p(M_n+1 | M_1 ... M_n), batch shape (...), event shape (S,).

        Args:
            blocks: the n >= 0 blocks before it, (..., n, S).
            temperature: factor of the deviation of every scalar; 1 is the prior itself.
        """

    @torch.no_grad()
    def extend(self, blocks: Tensor, number: int, temperature: float = 1.0) -> Tensor:
        """Blocks (..., n + number, S): the n >= 0 given ones (..., n, S), and `number` draws, one after the other."""
        for _ in range(number):
            blocks = torch.cat([blocks, self.next_block(blocks, temperature).sample().unsqueeze(-2)], -2)
        return blocks

    def forward(self, blocks: Tensor) -> Tensor:
        """ln p(M_n | M_1 ... M_n-1) of each block in nats, (..., N), of blocks (..., N, S)."""
        before = (blocks[..., :number, :] for number in range(blocks.shape[-2]))
        each = [self.next_block(first).log_prob(blocks[..., n, :]) for n, first in enumerate(before)]
        return torch.stack(each, -1)

    def kl_of_normal(self, loc: Tensor, scale: Tensor) -> Tensor:
        """KL(N(loc, scale^2) || p) of each block in nats, (..., N), of loc and scale (..., N, S).

        Raises:
            NotImplementedError: it has no closed form.
        """
        raise NotImplementedError(f"{type(self).__name__}: the KL of a normal to it has no closed form")


@dataclass(frozen=True)
class MemoryPriorParts:
    """Constructor arguments of p(M).

    Attributes:
        block_size: S, scalars of a block.
        dtype: precision of its networks, if it has any.
    """

    block_size: int
    dtype: torch.dtype


@dataclass(frozen=True)
class MemoryPriorKind:
    """A registered prior of memories.

    Attributes:
        build: builds it; None for the flat one, which is a constant, and has no density.
        closed_kl: whether it has `kl_of_normal`.
        like: name of the prior whose preset it takes too, if any.
    """

    build: Callable[[MemoryPriorParts], MemoryPrior] | None
    closed_kl: bool = False
    like: str | None = None


KEY_PRIORS: dict[str, type[KeyPrior]] = {}
"""Priors of keys by name; each is registered by its own file."""
LATENT_PRIORS: dict[str, LatentPriorKind] = {}
"""Priors of latents by name; each is registered by its own file."""
MEMORY_PRIORS: dict[str, MemoryPriorKind] = {}
"""Priors of memories by name; each is registered by its own file."""
