"""Distributions of memories, block by block, against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from kpp_pyro.distributions.block_memory import BlockMemory, NormalMemory, memory_of, written_blocks
from kpp_pyro.memory.blocks import MemoryLayout, cut_blocks
from kpp_pyro.priors.autoregressive import AutoregressivePrior
from kpp_pyro.priors.memories import StandardNormalMemory

LAYOUT = MemoryLayout(channels=2, height=4, width=6, block_height=2, block_width=2)  # six blocks of eight scalars
LIKE = torch.zeros((), dtype=torch.float64)


def posterior(written: int, batch: tuple[int, ...] = (3, 1)) -> NormalMemory:
    generator = torch.Generator().manual_seed(1)
    loc, raw = torch.randn(2, *batch, 6, 8, dtype=torch.float64, generator=generator)
    loc, scale = (memory_of(part[..., :written, :], LAYOUT) for part in (loc, raw.exp()))
    return NormalMemory(loc, scale, LAYOUT, written)


def learned() -> AutoregressivePrior:
    prior = AutoregressivePrior(8).double().eval()
    for parameter in prior.component.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return prior


@pytest.mark.parametrize("written", [0, 1, 4, 6])
def test_written_blocks_are_normal_and_the_others_zero(written):
    q = posterior(written)
    memory = q.rsample((5,))
    blocks, loc, scale = (cut_blocks(part, LAYOUT).flatten(-3) for part in (memory, q.mean, q.stddev))
    assert not blocks[..., written:, :].any()
    own = Normal(loc[..., :written, :], scale[..., :written, :]).log_prob(blocks[..., :written, :]).sum(-1)
    torch.testing.assert_close(q.block_log_prob(memory), own)
    torch.testing.assert_close(q.log_prob(memory), own.sum(-1))
    assert torch.equal(written_blocks(memory, LAYOUT, written), blocks[..., :written, :])


def test_a_draw_of_the_posterior_carries_gradients():
    q = posterior(4)
    loc = q.mean.clone().requires_grad_()
    moved = NormalMemory(loc, q.stddev, LAYOUT, 4)
    gradient = torch.autograd.grad(moved.rsample().sum(), loc)[0]
    assert torch.equal(gradient, torch.ones_like(loc))


def test_the_density_of_a_memory_is_that_of_its_blocks_in_order():
    prior, memory = learned(), posterior(4).sample()
    p = BlockMemory(prior, LAYOUT, 4, LIKE).expand((3, 1))
    blocks = written_blocks(memory, LAYOUT, 4)
    expected = sum(prior.next_block(blocks[..., :n, :]).log_prob(blocks[..., n, :]) for n in range(4))
    torch.testing.assert_close(p.log_prob(memory), expected)


def test_draws_of_the_prior_take_one_block_after_the_other():
    prior = learned()
    torch.manual_seed(3)
    draws = BlockMemory(prior, LAYOUT, 3, LIKE).sample((5,))
    assert draws.shape == (5, *LAYOUT.shape)
    assert not cut_blocks(draws, LAYOUT)[:, 3:].any()
    torch.manual_seed(3)
    blocks = torch.zeros(5, 0, 8, dtype=torch.float64)
    for _ in range(3):
        blocks = torch.cat([blocks, prior.next_block(blocks).sample().unsqueeze(1)], 1)
    torch.testing.assert_close(written_blocks(draws, LAYOUT, 3), blocks)


def test_the_kl_to_a_standard_normal_is_in_closed_form():
    q, p = posterior(4), BlockMemory(StandardNormalMemory(8).double(), LAYOUT, 4, LIKE, torch.Size([3, 1]))
    loc, scale = (written_blocks(part, LAYOUT, 4) for part in (q.mean, q.stddev))
    expected = kl_divergence(Normal(loc, scale), Normal(0.0, 1.0)).sum((-2, -1))
    torch.testing.assert_close(kl_divergence(q, p), expected)
    with pytest.raises(NotImplementedError, match="no closed form"):
        kl_divergence(q, BlockMemory(learned(), LAYOUT, 4, LIKE, torch.Size([3, 1])))


def test_an_expansion_is_the_same_distribution():
    q, memory = posterior(4), posterior(4).sample()
    assert q.expand((3, 1)) is q
    wider = q.expand((2, 3, 1))
    assert wider.batch_shape == (2, 3, 1)
    torch.testing.assert_close(wider.log_prob(memory), q.log_prob(memory).expand(2, -1, -1))
    p = BlockMemory(learned(), LAYOUT, 4, LIKE)
    torch.testing.assert_close(p.expand((2, 3, 1)).log_prob(memory), p.log_prob(memory).expand(2, -1, -1))
