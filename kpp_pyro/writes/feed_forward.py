"""The write `feed_forward`, as in the paper: M = f_mem(f_enc(X)), a learned map from all encodings to the memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.memory.blocks import KEY_SIZE, SCALE, Addressing, MemoryLayout, treads
from kpp_pyro.memory.sign_code import SignCode
from kpp_pyro.networks.heads import InPrecision, between
from kpp_pyro.posteriors.interface import Posterior
from kpp_pyro.writes.assignment import round_assignment, sinkhorn
from kpp_pyro.writes.blocks import BlockWrite
from kpp_pyro.writes.interface import WRITES, Encoding, WriteParts

_CLAIM_GAIN = 4.0  # claims are multiplied by it, so that the initial assignment is sharp enough for learning
_SINKHORN_STEPS = 8
_EDGE = 0.1  # of `Addressing`: wide enough to give normal keys a gradient at the edge of a block
_INITIAL_SCALE_LOC = -1.0  # location of a key's scale at the start: far below scales that read more than a block
_NARROWEST, _WIDEST = 0.02, 0.1  # standard deviations of a key, in widths of its block: edges are >= 5 of them away
_SCALE_WIDTH = 5.0  # width of a block in the direction of scales, of which only large ones read more than a block


@dataclass(frozen=True, kw_only=True)
class ClaimedEncoding(Encoding):
    """An encoding with claims on blocks.

    Attributes:
        shares: balanced claims, a soft assignment of reads to blocks, (B, T * R, N).
        blocks: block number of every read, from the rounded shares, (B, T, R).
    """

    shares: Tensor
    blocks: Tensor


class FeedForwardWrite(BlockWrite):
    """Blocks are assigned by learned claims, and the posteriors of keys are normal around the blocks.

        M(n) = mean of the contents c_s with P_sn = 1,   P = round(sinkhorn(claim(f_enc(x))))

    Contents (the locations of q(z | X)) and claims (one per block) are functions of an image's encoding. The paper does
    not specify how f_mem combines the encodings of an episode. Sums, or softmaxes over the episode at every place of
    the memory, mix the images that claim the same place, and neither can be read back. Here claims are balanced, so
    that every block gets equally many contents (Sinkhorn), and rounded. If T R <= N, every read has its own block.

    Claims get the straight-through gradient of the balanced claims. This gradient is almost zero: a block holds the
    mean of the contents that are read there, so that another assignment changes the expected KL only through keys that
    read a wrong block (tests show when the gradient is zero). Any balanced claims work; trained claims stay near the
    initial ones. Packed signs have no gradient: then the parameters of the claims are frozen.

    The posteriors of keys are normal, as in the paper, or of another family. The centre of a key's posterior is the
    block that the image was written to, or the block that matches a cue best. The scales are learned, relative to the
    block's size. A key outside its block reads another image's block, which costs tens of thousands of nats if the
    scales of latents are small. Key scales are bounded: draws outside the block are too rare (1 in 10,000) to train the
    scale. With the bound, independent normal keys (`mean_field`) read a wrong block in a few draws in a million. Other
    families add to the scale and read wrong blocks more often.

    Args:
        layout: of a memory that whole blocks tile.
        encoding_size: F, the size of encodings f_enc(X).
        smallest_scale: lower bound of the latents' scale.
        keys: family of q(y | X, M).
        dtype: precision of the networks.
        code: sign code that packs contents into a block's scalars; None to write contents unchanged.

    Raises:
        InputError: blocks do not tile the memory.
    """

    points_at_blocks = False
    like = "feed_forward"
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
        self.to_claim.requires_grad_(code is None)  # DistributedDataParallel needs a gradient of each trained parameter
        self.to_key_scale = InPrecision(nn.Linear(encoding_size, layout.reads * KEY_SIZE), dtype)
        initial = torch.zeros(layout.reads, KEY_SIZE)
        initial[:, SCALE] = _INITIAL_SCALE_LOC
        self.key_shift = nn.Parameter(initial)
        centres = self.addressing.key_grid(layout.rows, layout.columns)[:, 0]
        self.register_buffer("centres", centres, persistent=False)  # keys at the centres of the blocks, (N, 3)
        block = torch.arange(layout.blocks)
        across, down = _widths(layout.columns)[block % layout.columns], _widths(layout.rows)[block // layout.columns]
        scales = torch.full_like(across, _SCALE_WIDTH)
        widths = torch.stack([scales, across, down], -1)  # in the order of SCALE, X, Y
        self.register_buffer("widths", widths, persistent=False)  # of the blocks in key space, (N, 3)

    @classmethod
    def of(cls, parts: WriteParts) -> FeedForwardWrite:
        """Build the write."""
        return cls(parts.layout, parts.encoding_size, parts.smallest_scale, parts.keys(), parts.dtype, parts.code)

    def encode(self, features: Tensor) -> ClaimedEncoding:
        """Compute the parameters of q(z | X), and claims."""
        return self._claimed(super().encode(features))

    def assigned(self, encoding: Encoding) -> Tensor:
        """One-hot block numbers of all reads, (B, T * R, N), with the gradient of the balanced claims."""
        claimed = self._claimed(encoding)
        return super().assigned(claimed) + (claimed.shares - claimed.shares.detach())

    def blocks_of(self, encoding: Encoding) -> Tensor:
        """Block number of every read of every written image, (B, T, R)."""
        return self._claimed(encoding).blocks

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y | X, M), centred on the blocks that images were written to, or on those that match cues best."""
        blocks = self.blocks_of(encoding) if memory is None else self.match(encoding, memory).argmax(-1)
        raw = self.to_key_scale(encoding.features).unflatten(-1, self.key_shift.shape)
        loc = self.centres[blocks] + self.key_shift
        return self.keys(loc, self.widths[blocks] * between(raw, _NARROWEST, _WIDEST), encoding.features)

    def _claimed(self, encoding: Encoding) -> ClaimedEncoding:
        """The encoding with claims, computed unless it has them; claims give the encoder no gradient."""
        if isinstance(encoding, ClaimedEncoding):
            return encoding
        claims = self.to_claim(encoding.features.detach()).unflatten(-1, (self.layout.reads, -1)).flatten(1, 2)
        shares = sinkhorn(_CLAIM_GAIN * claims, _SINKHORN_STEPS)[0]
        blocks = round_assignment(shares.detach()).unflatten(1, (-1, self.layout.reads))
        return ClaimedEncoding(**vars(encoding), shares=shares, blocks=blocks)


def _widths(blocks: int) -> Tensor:
    """Width of each block along an axis, in key space: twice the distance from its centre to its nearer edge.

    In key space, blocks near the memory's border are asymmetric, and a normal distribution is limited by the nearer
    edge. A single block has no edges: its keys may have the prior's width.
    """
    if blocks == 1:
        return torch.full((1,), 1 / _WIDEST)
    number = torch.arange(blocks, dtype=torch.float32)
    start, end = treads(number, blocks, _EDGE)
    low, middle, high = (torch.special.ndtri(place) for place in (start, (number + 0.5) / blocks, end))
    return 2 * torch.minimum(middle - low, high - middle)


WRITES["feed_forward"] = FeedForwardWrite
