"""The paper's write: M = f_mem(f_enc(X)), one learned map of all encodings onto the whole memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.memory.blocks import KEY_SIZE, SCALE, Addressing, MemoryLayout
from kpp_pyro.memory.sign_code import SignCode
from kpp_pyro.networks.heads import InPrecision, between
from kpp_pyro.posteriors.interface import Posterior
from kpp_pyro.writes.assignment import round_assignment, sinkhorn
from kpp_pyro.writes.blocks import BlockWrite
from kpp_pyro.writes.interface import WRITES, Encoding, WriteParts

_CLAIM_GAIN = 4.0  # sharpens the first choices, which learning then has something to tell apart by
_SINKHORN_STEPS = 8
_EDGE = 0.1  # of a block: wide enough for a normal distribution of keys to feel where its block ends
_FIRST_SCALE_LOC = -1.0  # of a key's scale: away from those that read more than a block
_NARROWEST, _WIDEST = 0.02, 0.1  # deviations of a key, in widths of its block: its sides are five away or more
_ROOM_OF_SCALES = 5.0  # a width for the scales of keys, of which only large ones read more than a block


@dataclass(frozen=True, kw_only=True)
class ClaimedEncoding(Encoding):
    """An encoding with claims.

    Attributes:
        shares: claims of all reads, balanced over the blocks, (B, T * R, N).
        blocks: number of the block of every read, which they are rounded to, (B, T, R).
    """

    shares: Tensor
    blocks: Tensor


class FeedForwardWrite(BlockWrite):
    """Images claim blocks of the memory by what they look like, and keys are normal around the blocks.

        M(n) = mean of the contents c_s with P_sn = 1,   P = round(sinkhorn(claim(f_enc(x))))

    Contents, the locations of q(z|X), and claims, one for every block, are maps of the encodings. The paper does not
    say how f_mem joins the encodings of an episode. Sums, and softmaxes over the episode at every place, mix images
    wherever two of them want the same place, and what is read then says little of either. So claims are balanced over
    the blocks (Sinkhorn), as many contents to each, and rounded. With room for all, images have blocks to themselves.

    Claims get the gradient of the balanced ones, straight through the rounding. It is next to nothing: a block holds
    the mean of just those contents that are read there, so that moving one to another block changes no expected KL, but
    where keys stray (tests say when it is zero). Any balanced claims do; these stay near where they began.

    The keys' posteriors are normal, as the paper's, or of another family: their scales are learned, relative to the
    block's, and they are centred on the block that an image was written to, or on the one whose content matches a cue
    best. Away from it is another image's block, which costs tens of thousands of nats where reads are sharp. A gradient
    learns nothing of what happens once in ten thousand draws, so that scales are bounded: of independent normal keys
    (`mean_field`), a few draws in a million read another block. Other families add to the scale, and stray more often.

    Args:
        layout: a memory that whole blocks tile.
        encoding_size: F, of the encodings f_enc(X).
        smallest_scale: lower bound of the latents' scale.
        keys: the family of q(y|X, M).
        dtype: precision of the networks.
        code: by which contents are signs, packed into the scalars of a block; as they are if None.
    """

    points_at_blocks = False
    centres: Tensor
    widths: Tensor

    def __init__(
        self,
        layout: MemoryLayout,
        encoding_size: int,
        smallest_scale: float,
        keys: Posterior,
        dtype: torch.dtype = torch.float32,
        code: SignCode | None = None,
    ) -> None:
        super().__init__(layout, encoding_size, smallest_scale, dtype=dtype, code=code)
        self.addressing = Addressing(layout, edge=_EDGE)
        self.keys = keys
        self.to_claim = InPrecision(nn.Linear(encoding_size, layout.reads * layout.blocks, bias=False), dtype)
        self.to_claim.requires_grad_(code is None)  # what is unpacked has no gradient to pass on
        self.to_key_scale = InPrecision(nn.Linear(encoding_size, layout.reads * KEY_SIZE), dtype)
        first = torch.zeros(layout.reads, KEY_SIZE)
        first[:, SCALE] = _FIRST_SCALE_LOC
        self.key_shift = nn.Parameter(first)
        centres = self.addressing.key_grid(layout.rows, layout.columns)[:, 0]
        self.register_buffer("centres", centres, persistent=False)  # of the blocks, (N, 3)
        block = torch.arange(layout.blocks)
        across, down = _widths(layout.columns)[block % layout.columns], _widths(layout.rows)[block // layout.columns]
        scales = torch.full_like(across, _ROOM_OF_SCALES)
        widths = torch.stack([scales, across, down], -1)  # in the order of SCALE, X, Y
        self.register_buffer("widths", widths, persistent=False)  # of the keys that read each block alone, (N, 3)

    @classmethod
    def of(cls, parts: WriteParts) -> FeedForwardWrite:
        """Make the write."""
        return cls(parts.layout, parts.encoding_size, parts.smallest_scale, parts.keys(), parts.dtype, parts.code)

    def encode(self, features: Tensor) -> ClaimedEncoding:
        """Add the parameters of q(z|X), and claims."""
        return self._claimed(super().encode(features))

    def assigned(self, encoding: Encoding) -> Tensor:
        """Which block holds the content of which read, (B, T * R, N), with the gradient of the balanced claims."""
        claimed = self._claimed(encoding)
        return super().assigned(claimed) + (claimed.shares - claimed.shares.detach())

    def blocks_of(self, encoding: Encoding) -> Tensor:
        """Block of every read of every written image, (B, T, R)."""
        return self._claimed(encoding).blocks

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y|X, M): around the blocks that images were written to, or around those that match cues best."""
        found = self.blocks_of(encoding) if memory is None else self.match(encoding, memory).argmax(-1)
        raw = self.to_key_scale(encoding.features).unflatten(-1, self.key_shift.shape)
        loc = self.centres[found] + self.key_shift
        return self.keys(loc, self.widths[found] * between(raw, _NARROWEST, _WIDEST), encoding.features)

    def _claimed(self, encoding: Encoding) -> ClaimedEncoding:
        """The encoding with claims, unless `encode` made it: the encoder is left to what contents need."""
        if isinstance(encoding, ClaimedEncoding):
            return encoding
        claims = self.to_claim(encoding.features.detach()).unflatten(-1, (self.layout.reads, -1)).flatten(1, 2)
        shares = sinkhorn(_CLAIM_GAIN * claims, _SINKHORN_STEPS)[0]
        blocks = round_assignment(shares.detach()).unflatten(1, (-1, self.layout.reads))
        return ClaimedEncoding(**vars(encoding), shares=shares, blocks=blocks)


def _widths(blocks: int) -> Tensor:
    """Twice the way from the middle of each of the blocks along an axis to where a read first changes, in key space.

    A normal distribution does not follow a block's shape, which is lopsided near the memory's border: what counts is
    how far a key may stray to the nearer side. A lone block ends nowhere: its keys may be as wide as the prior.
    """
    if blocks == 1:
        return torch.full((1,), 1 / _WIDEST)
    number = torch.arange(blocks)
    start, end = (number + _EDGE / 2) / blocks, (number + 1 - _EDGE / 2) / blocks
    start[0], end[-1] = 0, 1  # nothing lies beyond
    low, middle, high = (torch.special.ndtri(place) for place in (start, (number + 0.5) / blocks, end))
    return 2 * torch.minimum(middle - low, high - middle)


WRITES["feed_forward"] = FeedForwardWrite
