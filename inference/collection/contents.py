"""What the images of a collection write to their blocks, and the points by which cues find these blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.memory_types import Memory
from inference.trained_memory import TrainedMemory
from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import MemoryLayout, join_blocks
from kpp_pyro.writes.blocks import BlockWrite

_IMAGES_AT_ONCE = 1024


class Contents:
    """The contents of blocks: from images, to images, and as points in the space in which a write matches cues.

    Each image is encoded as an episode of its own, so that its content does not depend on the others. An image has the
    R blocks that a key reads.

    Args:
        trained: a model with a memory of whole blocks.

    Raises:
        InputError: another model.
    """

    def __init__(self, trained: TrainedMemory) -> None:
        write = getattr(trained.guide, "write", None)
        if not isinstance(write, BlockWrite):
            found = f"a {type(trained.guide).__name__}"
            raise InputError(f"collection: expected a model that writes images to blocks of their own, found {found}")
        self.trained, self._write = trained, write

    @property
    def layout(self) -> MemoryLayout:
        """The layout of a memory."""
        return self._write.layout

    @property
    def block_shape(self) -> tuple[int, ...]:
        """Shape of an image's blocks, (R, C_m, h, w)."""
        return self.layout.reads, *self.layout.block_shape

    @torch.no_grad()
    def of_images(self, images: Tensor) -> Tensor:
        """What images (n, C, H, W) write, after content steps if the model takes any: (n, R, C_m, h, w)."""
        guide = self.trained.guide
        parts = [self._write.contents(guide.encode(part.unsqueeze(1))) for part in images.split(_IMAGES_AT_ONCE)]
        return torch.cat(parts).squeeze(1)

    @torch.no_grad()
    def of_cues(self, cues: Tensor) -> Tensor:
        """What cues (n, C, H, W) would write without content steps, which would fit their noise: (n, R, C_m, h, w)."""
        encoding = self.trained.guide.amortized_encoding(cues.unsqueeze(1))
        return self._write.contents(encoding).squeeze(1)

    def points(self, blocks: Tensor) -> Tensor:
        """Points (n, P) of blocks (n, R, C_m, h, w); packed signs are unpacked."""
        code, scalars = self._write.code, blocks.flatten(1)
        return code.unpack(scalars) if code else scalars

    @torch.no_grad()
    def decode(self, blocks: Tensor) -> Tensor:
        """Images (n, C, H, W) that blocks (n, R, C_m, h, w) are read as: means of p(x | z), z the mean of p(z|M, y)."""
        memories = memories_of(blocks.to(self.trained.device, self.trained.dtype), self.layout)
        read = self.trained.inspect(Memory(memories, self.trained.fingerprint))
        return read.images[:, : self.layout.capacity].flatten(0, 1)[: len(blocks)]


def memories_of(blocks: Tensor, layout: MemoryLayout) -> Tensor:
    """Memories (B, C_m, H_m, W_m) that hold blocks (n, R, C_m, h, w) of images in order; free blocks are zero."""
    missing = -len(blocks) % layout.capacity
    filled = torch.cat([blocks, blocks.new_zeros(missing, *blocks.shape[1:])])
    written = filled.unflatten(0, (-1, layout.capacity)).flatten(1, 2)  # (B, capacity R, C_m, h, w)
    unused = layout.blocks - written.shape[1]  # fewer than R
    return join_blocks(torch.cat([written, written.new_zeros(len(written), unused, *layout.block_shape)], 1), layout)
