"""An explicit, differentiable malloc: every image gets a block of memory of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kpp_pyro.memory import join_blocks
from kpp_pyro.writes.blocks import BlockWrite
from kpp_pyro.writes.interface import Encoding


class AllocateWrite(BlockWrite):
    """Image t's content goes into a block of its own, and its key's posterior is centred on that block.

    Blocks are given out in order; read r of image t gets block (t R + r) mod N. With more reads than blocks, blocks
    are shared: they hold the mean of what was written. This departs from the paper, whose write is `feed_forward`.
    Arguments are those of `BlockWrite`.
    """

    def forward(self, encoding: Encoding) -> Tensor:
        """Write every content into its block; blocks that nothing was written to are zero."""
        contents = self.contents(encoding).flatten(1, 2)  # (B, T * R, C_m, h, w)
        blocks = self.layout.blocks
        rounds = -(-contents.shape[1] // blocks)
        written = F.pad(contents, (0, 0, 0, 0, 0, 0, 0, rounds * blocks - contents.shape[1]))
        if rounds > 1:
            number = torch.arange(blocks, device=contents.device)
            counts = (contents.shape[1] - number + blocks - 1).div(blocks, rounding_mode="floor")  # (N,)
            written = written.unflatten(1, (rounds, blocks)).sum(1) / counts[:, None, None, None]
        return join_blocks(written, self.layout).unsqueeze(1)

    def blocks_of(self, encoding: Encoding) -> Tensor:
        """Blocks in order, the same in every episode, (B, T, R)."""
        blocks = self.own_blocks(encoding.images, encoding.features.device)
        return blocks.expand(encoding.features.shape[0], -1, -1)

    def own_blocks(self, images: int, device: torch.device | None = None) -> Tensor:
        """Block of every read of every image of an episode, (T, R)."""
        order = torch.arange(images * self.layout.reads, device=device)
        return order.remainder(self.layout.blocks).unflatten(0, (images, self.layout.reads))
