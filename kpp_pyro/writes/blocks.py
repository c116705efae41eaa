"""`BlockWrite`, the base of writes to whole blocks, with the matching of cues; and the write `allocate`."""

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
    """A write of contents, the locations of q(z | X), to whole blocks. Subclasses choose the blocks (`blocks_of`).

    Args:
        layout: of a memory that whole blocks tile.
        encoding_size: F, the size of encodings f_enc(X).
        smallest_scale: lower bound of the latents' scale.
        match_scale: smallest noise that `match` assumes, relative to the root mean square of the memory.
        match_prior_prob: probability of a key from the prior if the block was found by `match`.
        dtype: precision of the networks.
        code: sign code that packs contents into a block's scalars; None to write contents unchanged.
        from_code: whether contents start as the first numbers of an encoding, see `NetworkFamily.is_code`.

    Raises:
        InputError: blocks do not tile the memory.
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
        from_code: bool = False,
    ) -> None:
        super().__init__()
        layout.require_tiling()
        self.layout = layout
        self.addressing = Addressing(layout)
        self.code = code
        self.latent_size = layout.read_scalars * (code.latents if code else 1)
        self.match_scale = match_scale
        self.match_prior_prob = match_prior_prob
        content = LocScaleHead(encoding_size, self.latent_size, smallest_scale, from_code)
        self.to_content = InPrecision(content, dtype)

    @classmethod
    def of(cls, parts: WriteParts) -> BlockWrite:
        """Build the write; `parts.keys` is not used."""
        sizes = parts.layout, parts.encoding_size, parts.smallest_scale
        write = cls(*sizes, dtype=parts.dtype, code=parts.code, from_code=parts.from_code)
        write.is_random = parts.is_random
        return write

    @abstractmethod
    def blocks_of(self, encoding: Encoding) -> Tensor:
        """Block number of every read of every written image, (B, T, R)."""

    def forward(self, encoding: Encoding) -> Tensor:
        """Memories (B, 1, C_m, H_m, W_m) whose blocks are the means of the contents assigned to them, or zero."""
        contents = self.contents(encoding).flatten(3).flatten(1, 2)  # (B, T * R, S)
        assigned = self.assigned(encoding).to(contents.dtype)
        means = assigned.mT @ contents / assigned.detach().sum(1).clamp(min=1).unsqueeze(-1)  # (B, N, S)
        return join_blocks(means.unflatten(-1, self.layout.block_shape), self.layout).unsqueeze(1)

    def assigned(self, encoding: Encoding) -> Tensor:
        """One-hot block numbers of all reads, (B, T * R, N)."""
        numbers = torch.arange(self.layout.blocks, device=encoding.features.device)
        return self.blocks_of(encoding).flatten(1, 2).unsqueeze(-1) == numbers

    def encode(self, features: Tensor) -> Encoding:
        """Compute the parameters of q(z | X); its location is the content to write."""
        loc, scale = self.to_content(features)
        return Encoding(features, self.code.of(loc), scale, loc) if self.code else Encoding(features, loc, scale)

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y | X, M): a `KnownBlockKey` for written images, a `BlockKey` with probabilities of `match` for cues."""
        if memory is not None:
            return BlockKey(self.match(encoding, memory), self.addressing, self.match_prior_prob)
        return KnownBlockKey(self.blocks_of(encoding), self.addressing, encoding.features.dtype)

    def match(self, encoding: Encoding, memory: Tensor) -> Tensor:
        """Probability that a block holds a cue's content, (..., B, T, R, N); zero for unwritten blocks.

        This is the posterior of the block under a uniform prior, if a cue's content is the block's content plus normal
        noise. The noise variance is estimated for each cue: the mean square difference between its R contents and their
        nearest blocks, but at least (`match_scale` times the root mean square of the memory)^2; of random memories, at
        least their own variance. A corrupted cue therefore gives less certain probabilities than an image read from the
        memory.

        Args:
            encoding: of the cues.
            memory: (..., B, 1, C_m, H_m, W_m).
        """
        square, least = self._distances(encoding, memory)
        size = encoding.latent_loc.shape[-1] // self.layout.reads
        nearest = square.min(-1, keepdim=True).values.mean(-2, keepdim=True) / size  # (..., B, T, 1, 1)
        variance = torch.maximum(nearest, least)
        return (-square / (2 * variance)).softmax(-1)

    def _distances(self, encoding: Encoding, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Square distances of contents to blocks, (..., B, T, R, N), and the least variance, (..., B, 1, 1, 1).

        Of random memories, distances are in standard deviations of q(M | X).
        """
        cue = encoding.latent_loc.unflatten(-1, (self.layout.reads, -1))  # (B, T, R, D / R)
        blocks = cut_blocks(memory.squeeze(-4), self.layout).flatten(-3)  # (..., B, N, S)
        unwritten = ~blocks.any(-1) & blocks.flatten(-2).any(-1, keepdim=True)  # no block of an empty memory
        blocks = self.code.unpack(blocks) if self.code else blocks  # (..., B, N, D / R)
        if self.is_random:
            scale = encoding.latent_scale.unflatten(-1, (self.layout.reads, -1))
            square, least = _standard_squares(cue, scale, blocks), blocks.new_ones(())
        else:
            square = torch.cdist(cue.flatten(-3, -2), blocks).unflatten(-2, cue.shape[-3:-1]).square()
            count = (~unwritten).sum(-1).clamp(min=1)
            power = blocks.square().mean(-1).masked_fill(unwritten, 0.0).sum(-1) / count  # (..., B)
            least = self.match_scale**2 * power.clamp(min=1e-12)[..., None, None, None]
        return square.masked_fill(unwritten[..., None, None, :], torch.inf), least

    def contents(self, encoding: Encoding) -> Tensor:
        """Contents in the form in which they are written, (B, T, R, C_m, h, w): packed if they are signs.

        Raises:
            InputError: contents are signs, and there are more of them than blocks.
        """
        if self.code and encoding.images * self.layout.reads > self.layout.blocks:
            raise InputError(
                f"episode: expected at most {self.layout.blocks // self.layout.reads} images, since packed signs "
                f"cannot share a block, found {encoding.images}"
            )
        scalars = self.code.pack(encoding.latent_loc) if self.code else encoding.latent_loc
        return scalars.unflatten(-1, (self.layout.reads, *self.layout.block_shape))


def _standard_squares(cue: Tensor, scale: Tensor, blocks: Tensor) -> Tensor:
    """Squares of (cue - block) / scale, summed over S: (..., B, T, R, N).

    Args:
        cue: (B, T, R, S).
        scale: (B, T, R, S).
        blocks: (..., B, N, S).
    """
    precision, blocks = scale.square().reciprocal(), blocks.unsqueeze(-3)
    product = precision @ blocks.square().mT - 2 * (precision * cue) @ blocks.mT
    return (product + (precision * cue.square()).sum(-1, keepdim=True)).clamp(min=0)


class AllocateWrite(BlockWrite):
    """Blocks are allocated in order: read r of image t gets block (t R + r) mod N.

    A random memory is the only one whose blocks have to be in this order: its prior takes them one after the other.

    With more reads than blocks, blocks are shared and hold the mean of their contents. The posterior of an image's key
    is centred on its block. The paper's write is `feed_forward`; this one is not in the paper. Arguments are those of
    `BlockWrite`.
    """

    in_order = True

    def forward(self, encoding: Encoding) -> Tensor:
        """Memories (B, 1, C_m, H_m, W_m) with every content in its block; unwritten blocks are zero."""
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
        """Block numbers in order, the same in every episode, (B, T, R)."""
        blocks = self.own_blocks(encoding.features.shape[1], encoding.features.device)
        return blocks.expand(encoding.features.shape[0], -1, -1)

    def own_blocks(self, images: int, device: torch.device | None = None) -> Tensor:
        """Block number of every read of T = `images` images, (T, R)."""
        return self.layout.blocks_in_order(images, device)


WRITES["allocate"] = AllocateWrite
