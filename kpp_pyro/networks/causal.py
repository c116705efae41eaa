"""Causal self-attention over the blocks of a memory: what each block, and those before it, say of the next ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpp_pyro.networks.attention import ResidualAttention
from kpp_pyro.networks.mlp import ResidualMlp


class CausalAttention(nn.Module):
    """Features of the first 0, 1, ..., n blocks, from n blocks. No block has a position of its own.

    Args:
        block_size: S, scalars of a block.
        width: number of units, a multiple of `heads`.
        depth: number of layers of attention and a residual MLP.
        heads: heads of the attention.
    """

    def __init__(self, block_size: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(width))
        self.stem = nn.Linear(block_size, width)
        layers = (nn.Sequential(ResidualAttention(width, heads, causal=True), ResidualMlp(width)) for _ in range(depth))
        self.layers = nn.Sequential(*layers, nn.LayerNorm(width))

    def forward(self, blocks: Tensor) -> Tensor:
        """Features (..., n + 1, width) of blocks (..., n, S); feature i depends on blocks 1 to i."""
        start = self.start.expand(*blocks.shape[:-2], 1, -1)
        tokens = torch.cat([start, self.stem(blocks).to(start)], -2)
        return self.layers(tokens.reshape(-1, *tokens.shape[-2:])).view(*tokens.shape)
