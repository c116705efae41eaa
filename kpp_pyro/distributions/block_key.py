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
from kpp_pyro.memory.blocks import KEY_SIZE, Addressing, X, Y, cut_blocks

_ROUNDING = 64  # units in the last place of a CDF: margin between a sample and the edge of its block


class BlockKey(ExpandsOnce, TorchDistribution):
    """Keys of R reads, each of which reads one of N blocks with given probabilities.

    For each read, n ~ Categorical(block_probs). Then y ~ N(0, I) is restricted to the cell of block n, the keys that
    read block n and nothing else, see `Addressing.cells`. With probability `prior_prob`, y ~ N(0, I) instead. The
    density is the prior's times a constant per block, with P_n the prior probability of the cell:

        q(y) = N(y; 0, I) (sum_n (1 - prior_prob) block_probs_n 1[y in cell n] / P_n + prior_prob)

    The true posterior has the same form, since all keys in a cell read the same. For a known block, the KL to the
    prior is -ln P_n, slightly more than the ln N of a uniform choice among N blocks, and every draw reads that block.
    A `prior_prob` above zero bounds importance weights.

    Args:
        block_probs: (..., R, N); the last axis sums to one.
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

    def _expanded(self, batch_shape: Size) -> BlockKey:
        probs = self.block_probs.expand(*batch_shape, *self.block_probs.shape[-2:])
        return BlockKey(probs, self.addressing, self.prior_prob, validate_args=False)

    @property
    def mode(self) -> Tensor:
        """Median of the keys in the most probable cell, (..., R, 3); all keys in the cell read the same."""
        return self.addressing.middles(self.block_probs.argmax(-1), self._dtype)

    def mean_read(self, memory: Tensor) -> Tensor:
        """Mean read of a memory: sum_n block_probs_n block_n. Keys from the prior are not included.

        Args:
            memory: (..., B, 1, C_m, H_m, W_m).

        Returns:
            Blocks (..., B, T, R, C_m, h, w).
        """
        blocks = cut_blocks(memory.squeeze(-4), self.addressing.layout)  # (..., B, N, C_m, h, w)
        return torch.einsum("...btrn,...bnchw->...btrchw", self.block_probs, blocks)

    def sample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw keys (sample_shape, ..., R, 3)."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw keys (sample_shape, ..., R, 3), without a gradient: the parameters only choose among blocks."""
        shape, layout = self._extended_shape(sample_shape), self.addressing.layout
        low, high = self._draw_cells(shape[:-1])
        margin = _ROUNDING * torch.finfo(low.dtype).eps * max(layout.rows, layout.columns)
        uniform = torch.rand(shape, dtype=low.dtype, device=low.device).clamp(margin, 1 - margin)
        inside = torch.lerp(low, high, uniform)
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
        mass = self.addressing.cell_masses(self.block_probs)  # (N,)
        outside = 1 - mass.sum()
        chosen = (1 - self.prior_prob) * self.block_probs
        inside = torch.xlogy(chosen + self.prior_prob * mass, chosen / mass + self.prior_prob).sum(-1)
        rest = torch.xlogy(inside.new_tensor(self.prior_prob), self.prior_prob) * outside
        return (inside + rest).sum(-1)

    def _density_ratio(self, key: Tensor) -> Tensor:
        """q(y) / N(y; 0, I) of keys (..., R, 3), (..., R)."""
        layout, uniform = self.addressing.layout, torch.special.ndtr(key)
        column = (uniform[..., X] * layout.columns).long().clamp(max=layout.columns - 1)
        row = (uniform[..., Y] * layout.rows).long().clamp(max=layout.rows - 1)
        block = row * layout.columns + column
        ratio = _ratio_inside(uniform, self.addressing.cells(block, key.dtype))
        return (1 - self.prior_prob) * self._probs_of(block) * ratio + self.prior_prob

    def _draw_cells(self, shape: Size) -> tuple[Tensor, Tensor]:
        """Cells of drawn blocks (..., R), see `Addressing.cells`."""
        probs = self.block_probs.detach().expand(*shape, self.block_probs.shape[-1])
        blocks = (probs / torch.empty_like(probs).exponential_()).argmax(-1)  # torch.multinomial synchronises
        return self.addressing.cells(blocks, self._dtype)

    def _probs_of(self, blocks: Tensor) -> Tensor:
        """Probabilities of block numbers (..., R), (..., R)."""
        return self.block_probs.expand(*blocks.shape, -1).gather(-1, blocks.unsqueeze(-1)).squeeze(-1)


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

    @lazy_property
    def _cells(self) -> tuple[Tensor, Tensor]:
        return self.addressing.cells(self.blocks, self._dtype)

    def _draw_cells(self, shape: Size) -> tuple[Tensor, Tensor]:
        return self._cells  # the draws are of `shape` by broadcasting

    def _density_ratio(self, key: Tensor) -> Tensor:
        return _ratio_inside(torch.special.ndtr(key), self._cells)


def _ratio_inside(uniform: Tensor, cells: tuple[Tensor, Tensor]) -> Tensor:
    """Density of N(0, I) restricted to cells, relative to N(0, I), at CDF values (..., R, 3): 1 / P_n inside, or 0."""
    low, high = cells
    inside = ((low <= uniform) & (uniform <= high)).all(-1)
    return inside / (high - low).prod(-1)


@register_kl(BlockKey, Independent)
def _kl_block_key(q: BlockKey, p: Independent) -> Tensor:
    """KL(q || N(0, I)) in nats, (...)."""
    base = p.base_dist
    standard = isinstance(base, Normal) and not base.loc.any() and bool((base.scale == 1).all())
    if not standard or p.event_shape != q.event_shape:
        raise NotImplementedError("closed form only for a standard normal prior over keys (R, 3)")
    return q.kl_to_prior()
