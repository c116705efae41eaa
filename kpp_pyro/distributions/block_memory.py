"""Distributions of memories, block by block: a prior that takes the blocks in order, and a normal posterior.

Only the first blocks, as many as images were written, are random. The others are zero with probability one, and have no
density.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from pyro.distributions.util import broadcast_shape
from torch import Size, Tensor
from torch.distributions import constraints, register_kl

from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import DiagonalNormal, ExpandsOnce
from kpp_pyro.memory.blocks import MemoryLayout, cut_blocks, join_blocks


class BlockPrior(Protocol):
    """The methods of a prior over blocks that are used here, see `kpp_pyro.priors.interface.MemoryPrior`."""

    def __call__(self, blocks: Tensor) -> Tensor:
        """ln p(M_n | M_1 ... M_n-1) of each block in nats, (..., N), of blocks (..., N, S)."""

    def next_block(self, blocks: Tensor, temperature: float = 1.0) -> Distribution:
        """p(M_n+1 | M_1 ... M_n), event (S,), of blocks (..., n, S)."""

    def extend(self, blocks: Tensor, number: int, temperature: float = 1.0) -> Tensor:
        """Blocks (..., n, S), and as many more that are drawn after them, (..., n + number, S)."""

    def kl_of_normal(self, loc: Tensor, scale: Tensor) -> Tensor:
        """KL(N(loc, scale^2) || p) of each block in nats, (..., N)."""


class BlockMemory(ExpandsOnce, TorchDistribution):
    """p(M) = prod_n p(M_n | M_1 ... M_n-1), over the first `written` blocks.

    Args:
        prior: of the blocks.
        layout: of the memory.
        written: number of blocks that are not zero.
        like: a tensor of the device and dtype of a memory.
        batch_shape: of the memories.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.real, 3)

    def __init__(
        self, prior: BlockPrior, layout: MemoryLayout, written: int, like: Tensor, batch_shape: Size = Size()
    ) -> None:
        self.prior, self.layout, self.written, self._like = prior, layout, written, like
        super().__init__(batch_shape, Size(layout.shape), validate_args=False)

    def _expanded(self, batch_shape: Size) -> BlockMemory:
        return BlockMemory(self.prior, self.layout, self.written, self._like, batch_shape)

    def block_log_prob(self, value: Tensor) -> Tensor:
        """ln p(M_n | M_1 ... M_n-1) of each written block in nats, (..., written)."""
        return self.prior(written_blocks(value, self.layout, self.written))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...)."""
        log_prob = self.block_log_prob(value).sum(-1)
        return log_prob.expand(broadcast_shape(log_prob.shape, self.batch_shape))

    def sample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw memories (sample_shape, ..., C_m, H_m, W_m), one block after the other."""
        size = math.prod(self.layout.block_shape)
        none = self._like.new_zeros(*Size(sample_shape), *self.batch_shape, 0, size)
        return memory_of(self.prior.extend(none, self.written), self.layout)


class NormalMemory(DiagonalNormal):
    """q(M | X) = prod_n N(M_n; loc_n, scale_n^2), over the first `written` blocks.

    Args:
        loc: (..., C_m, H_m, W_m), zero in the other blocks.
        scale: (..., C_m, H_m, W_m), positive in the written blocks, and zero in the others.
        layout: of the memory.
        written: number of blocks that are not zero.
        validate_args: whether values are validated, as in any Pyro distribution.
    """

    def __init__(
        self, loc: Tensor, scale: Tensor, layout: MemoryLayout, written: int, validate_args: bool | None = None
    ) -> None:
        super().__init__(loc, scale, 3, validate_args=False)  # a scale of zero would be refused
        self._validate_args = TorchDistribution._validate_args if validate_args is None else validate_args
        self.layout, self.written = layout, written

    def _expanded(self, batch_shape: Size) -> NormalMemory:
        shape = batch_shape + self.event_shape
        loc, scale = self.base_dist.loc.expand(shape), self.base_dist.scale.expand(shape)
        return NormalMemory(loc, scale, self.layout, self.written, validate_args=False)

    def of_blocks(self) -> DiagonalNormal:
        """q(M_n) of each written block: batch (..., written), event (S,)."""
        parts = self.base_dist.loc, self.base_dist.scale
        loc, scale = (written_blocks(part, self.layout, self.written) for part in parts)
        return DiagonalNormal(loc, scale, validate_args=False)

    def block_log_prob(self, value: Tensor) -> Tensor:
        """ln q(M_n) of each written block in nats, (..., written)."""
        if self._validate_args:
            self._validate_sample(value)
        return self.of_blocks().log_prob(written_blocks(value, self.layout, self.written))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...)."""
        return self.block_log_prob(value).sum(-1)


def written_blocks(memory: Tensor, layout: MemoryLayout, written: int) -> Tensor:
    """The first blocks of memories (..., C_m, H_m, W_m), flat: (..., written, S)."""
    return cut_blocks(memory, layout)[..., :written, :, :, :].flatten(-3)


def held_blocks(memory: Tensor, layout: MemoryLayout) -> Tensor:
    """The blocks of memories (..., C_m, H_m, W_m) that are not zero, flat: (..., n, S).

    Raises:
        InputError: memories with different numbers of blocks, or with empty blocks before others.
    """
    blocks = cut_blocks(memory, layout).flatten(-3)  # (..., N, S)
    held = blocks.any(-1)
    count = int(held.sum(-1).max())
    if not held[..., :count].all():
        raise InputError("memories: expected equally many written blocks in each, found others, or empty ones between")
    return blocks[..., :count, :]


def memory_of(blocks: Tensor, layout: MemoryLayout) -> Tensor:
    """Memories (..., C_m, H_m, W_m) whose first blocks are (..., n, S), and whose others are zero."""
    empty = blocks.new_zeros(*blocks.shape[:-2], layout.blocks - blocks.shape[-2], blocks.shape[-1])
    return join_blocks(torch.cat([blocks, empty], -2).unflatten(-1, layout.block_shape), layout)


@register_kl(NormalMemory, BlockMemory)
def _kl_of_memories(q: NormalMemory, p: BlockMemory) -> Tensor:
    """KL(q || p) in nats, (...), where the prior has one in closed form."""
    blocks = q.of_blocks()
    return p.prior.kl_of_normal(blocks.mean, blocks.stddev).sum(-1)
