"""Distributions of keys that read one block of a memory: the standard normal prior, re-weighted block by block."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Independent, Normal, constraints, register_kl
from torch.distributions.utils import lazy_property

from kpp_pyro.fast_pyro import ExpandsOnce
from kpp_pyro.memory.blocks import KEY_SIZE, SCALE, Addressing, X, Y, cut_blocks

_ROUNDING = 64  # units in the last place of a CDF: margin between a sample and the edge of its block


class BlockKey(ExpandsOnce, TorchDistribution):
    """Keys of R reads, each of which reads one of N blocks with given probabilities.

    For each read, n ~ Categorical(block_probs). Then y ~ N(0, I) is restricted to the keys that read block n and
    nothing else: those inside the block, without its edges (the edges at the memory's border are left out, too). With
    probability `prior_prob`, y ~ N(0, I) instead. The density is the prior's times a constant per block:

        q(y) = N(y; 0, I) (sum_n (1 - prior_prob) block_probs_n 1[y in block n] / P_n + prior_prob)

    The true posterior has the same form, since all keys inside a block read the same. For a known block, the KL to the
    prior is -ln P_n, slightly more than the ln N of a uniform choice among N blocks, and every draw reads that block.
    A `prior_prob` above zero bounds importance weights.

    If the addressing has semantic reads, there may be 2 N probabilities: first those of reading block n as it was
    written, then those of reading it semantically. The scales of semantic keys lie in a range of their own.

    Args:
        block_probs: (..., R, N) or (..., R, 2 N); the last axis sums to one.
        addressing: of N blocks.
        prior_prob: probability of a key from the prior.
        validate_args: as in any Pyro distribution.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "block_probs": constraints.independent(constraints.simplex, 1)
    }
    support = constraints.independent(constraints.real, 2)

    def __init__(
        self,
        block_probs: Tensor,
        addressing: Addressing,
        prior_prob: float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        self.block_probs = block_probs
        self._dtype = block_probs.dtype
        self.addressing = addressing
        self.prior_prob = prior_prob
        event_shape = Size((block_probs.shape[-2], KEY_SIZE))
        super().__init__(block_probs.shape[:-2], event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are reparametrised: only if `block_probs` needs no gradient."""
        return not self.block_probs.requires_grad

    @property
    def block_mass(self) -> float:
        """P_n, the prior probability of the keys that read block n, and nothing else, as it was written."""
        addressing = self.addressing
        return (1 - addressing.edge) ** 2 * addressing.sharp / addressing.layout.blocks

    @property
    def _semantic_mass(self) -> float:
        """Prior probability of the keys that read block n, and nothing else, semantically."""
        addressing = self.addressing
        return (1 - addressing.edge) ** 2 * addressing.semantic / addressing.layout.blocks

    def _expanded(self, batch_shape: Size) -> BlockKey:
        probs = self.block_probs.expand(*batch_shape, *self.block_probs.shape[-2:])
        return BlockKey(probs, self.addressing, self.prior_prob, validate_args=False)

    @property
    def mode(self) -> Tensor:
        """Key at the centre of the most probable block, (..., R, 3); all keys inside the block read the same."""
        best = self.block_probs.argmax(-1)
        uniform = torch.full((*best.shape, KEY_SIZE), 0.5, dtype=self.block_probs.dtype, device=best.device)
        return torch.special.ndtri(self._inside_block(best, uniform))

    def mean_read(self, memory: Tensor) -> Tensor:
        """Mean read of a memory: sum_n block_probs_n block_n. Keys from the prior are not included.

        Args:
            memory: (..., B, 1, C_m, H_m, W_m).

        Returns:
            Blocks (..., B, T, R, C_m, h, w).
        """
        blocks = cut_blocks(memory.squeeze(-4), self.addressing.layout)  # (..., B, N, C_m, h, w)
        probs = self.block_probs.unflatten(-1, (-1, self.addressing.layout.blocks)).sum(-2)
        return torch.einsum("...btrn,...bnchw->...btrchw", probs, blocks)

    def sample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw keys (sample_shape, ..., R, 3)."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw keys (sample_shape, ..., R, 3), without a gradient: the parameters only choose among blocks."""
        shape, layout = self._extended_shape(sample_shape), self.addressing.layout
        blocks, dtype = self._draw_blocks(shape[:-1]), self._dtype
        margin = _ROUNDING * torch.finfo(dtype).eps * max(layout.rows, layout.columns)
        uniform = torch.rand(shape, dtype=dtype, device=blocks.device).clamp(margin, 1 - margin)
        inside = self._inside_block(blocks, uniform)
        if self.prior_prob > 0:
            from_prior = torch.rand_like(uniform[..., :1]) < self.prior_prob
            inside = torch.where(from_prior, uniform, inside)
        return torch.special.ndtri(inside)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        prior = -0.5 * (value.square() + math.log(2 * math.pi)).sum(-1)  # (..., R)
        return (prior + self._density_ratio(value).log()).sum(-1)

    def kl_to_prior(self) -> Tensor:
        """KL(q || N(0, I)) in nats, (...)."""
        blocks = self.addressing.layout.blocks
        mass = self.block_probs.new_full(self.block_probs.shape[-1:], self.block_mass)
        mass[blocks:] = self._semantic_mass
        outside = 1 - mass.sum()
        chosen = (1 - self.prior_prob) * self.block_probs
        inside = torch.xlogy(chosen + self.prior_prob * mass, chosen / mass + self.prior_prob).sum(-1)
        rest = torch.xlogy(inside.new_tensor(self.prior_prob), self.prior_prob) * outside
        return (inside + rest).sum(-1)

    def _inside_block(self, blocks: Tensor, uniform: Tensor) -> Tensor:
        """CDF values of keys inside blocks (..., R), from uniforms (..., R, 3); block numbers from N are semantic."""
        addressing, layout, edge = self.addressing, self.addressing.layout, self.addressing.edge
        within = edge / 2 + (1 - edge) * uniform
        x = (blocks % layout.columns + within[..., X]) / layout.columns
        y = (blocks % layout.blocks // layout.columns + within[..., Y]) / layout.rows
        scale = addressing.sharp * uniform[..., SCALE]
        if addressing.semantic:
            semantic = addressing.sharp + addressing.semantic * uniform[..., SCALE]
            scale = torch.where(blocks < layout.blocks, scale, semantic)
        return torch.stack([scale, x, y], -1)  # in the order of SCALE, X, Y

    def _density_ratio(self, key: Tensor) -> Tensor:
        """q(y) / N(y; 0, I) of keys (..., R, 3), (..., R)."""
        layout, edge = self.addressing.layout, self.addressing.edge
        uniform = torch.special.ndtr(key)
        x, y = uniform[..., X] * layout.columns, uniform[..., Y] * layout.rows
        column, row = x.floor().clamp(max=layout.columns - 1), y.floor().clamp(max=layout.rows - 1)
        inside = ((x - column - 0.5).abs() <= 0.5 - edge / 2) & ((y - row - 0.5).abs() <= 0.5 - edge / 2)
        inside &= uniform[..., SCALE] <= 1 - self.addressing.broad
        block = (row * layout.columns + column).long()
        if not self.addressing.semantic:
            return (1 - self.prior_prob) * self._probs_of(block) * inside / self.block_mass + self.prior_prob
        semantic = self.addressing.is_semantic(key)
        mass = self.block_mass + (self._semantic_mass - self.block_mass) * semantic.to(key.dtype)
        probs = self._probs_of(block + semantic * layout.blocks)
        return (1 - self.prior_prob) * probs * inside / mass + self.prior_prob

    def _draw_blocks(self, shape: Size) -> Tensor:
        """Draw block numbers (..., R)."""
        probs = self.block_probs.detach().expand(*shape, self.block_probs.shape[-1])
        return (probs / torch.empty_like(probs).exponential_()).argmax(-1)  # torch.multinomial synchronises

    def _probs_of(self, blocks: Tensor) -> Tensor:
        """Probabilities of block numbers (..., R), (..., R); zero for semantic reads if `block_probs` has none."""
        size = self.block_probs.shape[-1]  # N or 2 N
        probs = self.block_probs.expand(*blocks.shape, -1).gather(-1, blocks.clamp(max=size - 1).unsqueeze(-1))
        return probs.squeeze(-1) * (blocks < size)


class KnownBlockKey(BlockKey):
    """A `BlockKey` whose blocks are known: time and storage do not depend on the number of other blocks.

    Args:
        blocks: block number of every read, (..., R).
        addressing: of the memory.
        dtype: of the keys.
    """

    def __init__(self, blocks: Tensor, addressing: Addressing, dtype: torch.dtype = torch.float32) -> None:
        self.blocks, self.addressing, self.prior_prob, self._dtype = blocks, addressing, 0.0, dtype
        TorchDistribution.__init__(self, blocks.shape[:-1], Size((blocks.shape[-1], KEY_SIZE)))

    @lazy_property
    def block_probs(self) -> Tensor:  # type: ignore[override]
        """One-hot probabilities of the known blocks, (..., R, N)."""
        numbers = torch.arange(self.addressing.layout.blocks, device=self.blocks.device)
        return (self.blocks.unsqueeze(-1) == numbers).to(self._dtype)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """True: the blocks depend on no parameter."""
        return True

    def _expanded(self, batch_shape: Size) -> KnownBlockKey:
        return KnownBlockKey(self.blocks.expand(*batch_shape, -1), self.addressing, self._dtype)

    def _draw_blocks(self, shape: Size) -> Tensor:
        return self.blocks.expand(shape)

    def _probs_of(self, blocks: Tensor) -> Tensor:
        return (self.blocks == blocks).to(self._dtype)


@register_kl(BlockKey, Independent)
def _kl_block_key(q: BlockKey, p: Independent) -> Tensor:
    """KL(q || N(0, I)) in nats, (...)."""
    base = p.base_dist
    standard = isinstance(base, Normal) and not base.loc.any() and bool((base.scale == 1).all())
    if not standard or p.event_shape != q.event_shape:
        raise NotImplementedError("closed form only for a standard normal prior over keys (R, 3)")
    return q.kl_to_prior()
