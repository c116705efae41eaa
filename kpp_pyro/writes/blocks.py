"""What writes to blocks of memory share: their contents, and how a cue finds the block that holds its own."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from kpp_pyro.distributions.block_key import BlockKey, KnownBlockKey
from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import Addressing, MemoryLayout, cut_blocks, join_blocks
from kpp_pyro.memory.sign_code import SignCode
from kpp_pyro.networks.heads import InPrecision, LocScaleHead
from kpp_pyro.writes.interface import WRITES, Encoding, Write, WriteParts


class BlockWrite(Write):
    """A write that puts contents, the locations of q(z|X), into whole blocks, and knows in which.

    Args:
        layout: a memory that whole blocks tile.
        encoding_size: F, of the encodings f_enc(X).
        smallest_scale: lower bound of the latents' scale.
        match_scale: least noise that a match of contents allows for, relative to the root mean square of the memory.
        match_prior_prob: probability of a key from the prior where a block was found by a match.
        dtype: precision of the networks.
        code: by which contents are signs, packed into the scalars of a block; as they are if None.
        semantic: prior probability of keys that read a block semantically, see `SemanticReading`.

    Raises:
        InputError: a memory that is not a whole number of blocks.
    """

    points_at_blocks = True

    def __init__(
        self,
        layout: MemoryLayout,
        encoding_size: int,
        smallest_scale: float,
        match_scale: float = 0.3,
        match_prior_prob: float = 0.01,
        dtype: torch.dtype = torch.float32,
        code: SignCode | None = None,
        semantic: float = 0.0,
    ) -> None:
        super().__init__()
        layout.require_tiling()
        self.layout = layout
        self.addressing = Addressing(layout, semantic=semantic)
        self.code = code
        self.latent_size = layout.read_scalars * (code.signs if code else 1)
        self.match_scale = match_scale
        self.match_prior_prob = match_prior_prob
        self.to_content = InPrecision(LocScaleHead(encoding_size, self.latent_size, smallest_scale), dtype)
        head = LocScaleHead(encoding_size, self.latent_size, smallest_scale) if semantic else None
        self.to_semantic = InPrecision(head, dtype) if head else None

    @classmethod
    def of(cls, parts: WriteParts) -> BlockWrite:
        """Make the write; a family of keys is not asked for."""
        sizes = parts.layout, parts.encoding_size, parts.smallest_scale
        return cls(*sizes, dtype=parts.dtype, code=parts.code, semantic=parts.semantic)

    @abstractmethod
    def blocks_of(self, encoding: Encoding) -> Tensor:
        """Block that every read of every written image is to find, (B, T, R)."""

    def forward(self, encoding: Encoding) -> Tensor:
        """Write to every block the mean of the contents that are to be found in it, or zero."""
        contents = self.contents(encoding).flatten(3).flatten(1, 2)  # (B, T * R, S)
        assigned = self.assigned(encoding).to(contents.dtype)
        held = assigned.mT @ contents / assigned.detach().sum(1).clamp(min=1).unsqueeze(-1)  # (B, N, S)
        return join_blocks(held.unflatten(-1, self.layout.block_shape), self.layout).unsqueeze(1)

    def assigned(self, encoding: Encoding) -> Tensor:
        """Which block holds the content of which read, as ones among zeros, (B, T * R, N)."""
        numbers = torch.arange(self.layout.blocks, device=encoding.features.device)
        return self.blocks_of(encoding).flatten(1, 2).unsqueeze(-1) == numbers

    def encode(self, features: Tensor) -> Encoding:
        """Add the parameters of q(z|X): its location is the content that is written."""
        loc, scale = self.to_content(features)
        semantic = self.to_semantic(features) if self.to_semantic else None
        return Encoding(features, self.code.of(loc) if self.code else loc, scale, semantic)

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y|X, M): written images point to their own blocks, cues to those whose content matches theirs."""
        if memory is not None:
            return BlockKey(self.match(encoding, memory), self.addressing, self.match_prior_prob)
        return KnownBlockKey(self.blocks_of(encoding), self.addressing, encoding.features.dtype)

    def match(self, encoding: Encoding, memory: Tensor) -> Tensor:
        """Probability of every block to hold a cue's content, (B, T, R, N); blocks never written to hold none.

        It is the posterior of the block under a uniform prior, were cues the contents plus normal noise. How much, the
        cue itself says: the mean square of what its R reads are away from the nearest blocks, but no less than
        `match_scale` times the root mean square of the memory. A damaged cue is unsure; what was read of it, less so.
        """
        square, power = self._distances(encoding, memory)
        size = encoding.latent_loc.shape[-1] // self.layout.reads
        away = square.min(-1, keepdim=True).values.mean(-2, keepdim=True) / size  # (..., B, T, 1, 1)
        variance = torch.maximum(away, self.match_scale**2 * power)
        return (-square / (2 * variance)).softmax(-1)

    def _distances(self, encoding: Encoding, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Square distances of contents to those of blocks, (..., B, T, R, N), and the mean square of the latter."""
        cue = encoding.latent_loc.unflatten(-1, (self.layout.reads, -1))  # (B, T, R, D / R)
        held = cut_blocks(memory.squeeze(-4), self.layout).flatten(-3)  # (..., B, N, S)
        empty = ~held.any(-1) & held.flatten(-2).any(-1, keepdim=True)  # nobody's block, unless nothing was written
        held = self.code.unpack(held) if self.code else held  # (..., B, N, D / R)
        distance = torch.cdist(cue.flatten(-3, -2), held).unflatten(-2, cue.shape[-3:-1])  # (..., B, T, R, N)
        square = distance.square().masked_fill(empty[..., None, None, :], torch.inf)
        written = (~empty).sum(-1).clamp(min=1)  # a memory's blocks count that hold something, however many are free
        power = held.square().mean(-1).masked_fill(empty, 0.0).sum(-1) / written  # (..., B)
        return square, power.clamp(min=1e-12)[..., None, None, None]

    def contents(self, encoding: Encoding) -> Tensor:
        """Contents as they are written, (B, T, R, C_m, h, w).

        Raises:
            InputError: images that would have to share blocks, whose contents are signs.
        """
        if self.code and encoding.images * self.layout.reads > self.layout.blocks:
            raise InputError(
                f"episode: expected at most {self.layout.blocks // self.layout.reads} images, which the memory has "
                f"blocks for, since a mean of packed signs says nothing, found {encoding.images}"
            )
        scalars = self.code.pack(encoding.latent_loc) if self.code else encoding.latent_loc
        return scalars.unflatten(-1, (self.layout.reads, *self.layout.block_shape))


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
        blocks = self.own_blocks(encoding.features.shape[1], encoding.features.device)
        return blocks.expand(encoding.features.shape[0], -1, -1)

    def own_blocks(self, images: int, device: torch.device | None = None) -> Tensor:
        """Block of every read of every image of an episode, (T, R)."""
        order = torch.arange(images * self.layout.reads, device=device)
        return order.remainder(self.layout.blocks).unflatten(0, (images, self.layout.reads))


WRITES["allocate"] = AllocateWrite
