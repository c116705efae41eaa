"""Priors of memories: normalised, causal, N(0, I) at the start; gradients; all blocks at once against one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from kpp_pyro.priors import MEMORY_PRIORS
from kpp_pyro.priors.interface import MemoryPrior, MemoryPriorParts

PROPER = [name for name, kind in MEMORY_PRIORS.items() if kind.build is not None]
every_prior = pytest.mark.parametrize("name", PROPER)


def prior_of(name: str, size: int, trained: bool = True) -> MemoryPrior:
    """A prior whose parameters are far from where training starts, if it has any."""
    prior = MEMORY_PRIORS[name].build(MemoryPriorParts(size, torch.float64)).double().eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in prior.parameters() if trained else ():
        parameter.data += 0.05 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return prior


def some_blocks(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@every_prior
def test_training_starts_at_the_standard_normal(name):
    blocks = some_blocks(2, 5, 3)
    expected = Normal(0.0, 1.0).log_prob(blocks).sum(-1)
    torch.testing.assert_close(prior_of(name, 3, trained=False)(blocks), expected, rtol=1e-12, atol=1e-12)


@every_prior
def test_all_blocks_at_once_are_each_block_given_those_before(name):
    prior, blocks = prior_of(name, 3), some_blocks(2, 4, 5, 3)
    torch.testing.assert_close(prior(blocks), MemoryPrior.forward(prior, blocks), rtol=1e-10, atol=1e-10)


@every_prior
def test_a_block_given_those_before_integrates_to_one(name):
    prior, before = prior_of(name, 1), some_blocks(3, 1)
    block = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    density = prior.next_block(before).log_prob(block[:, None]).exp()
    assert torch.trapezoid(density, block).item() == pytest.approx(1, abs=1e-6)


@every_prior
def test_two_blocks_integrate_to_one(name):
    prior = prior_of(name, 1)
    block = torch.linspace(-15, 15, 101, dtype=torch.float64)  # the rule's error falls exponentially with their number
    first, second = torch.meshgrid(block, block, indexing="ij")
    density = prior(torch.stack([first, second], -1).unsqueeze(-1)).sum(-1).exp()
    assert torch.trapezoid(torch.trapezoid(density, block), block).item() == pytest.approx(1, abs=1e-4)


@every_prior
@pytest.mark.parametrize("changed", range(4))
def test_a_block_changes_nothing_before_it(name, changed):
    prior, blocks = prior_of(name, 3), some_blocks(4, 3)
    other = blocks.clone()
    other[changed] += 1
    before, after = prior(blocks), prior(other)
    torch.testing.assert_close(before[:changed], after[:changed], rtol=0, atol=1e-12)
    assert (before[changed] - after[changed]).abs() > 1e-3


@every_prior
def test_blocks_drawn_in_two_goes_are_those_drawn_in_one(name):
    prior, given = prior_of(name, 3), some_blocks(4, 2, 3)
    torch.manual_seed(5)
    at_once = prior.extend(given, 4)
    torch.manual_seed(5)
    in_two = prior.extend(prior.extend(given, 1), 3)
    assert torch.equal(at_once, in_two) and torch.equal(at_once[:, :2], given) and at_once.shape == (4, 6, 3)


def test_a_learned_prior_depends_on_the_blocks_before():
    prior, blocks = prior_of("autoregressive", 3), some_blocks(4, 3)
    gradient = torch.autograd.grad(prior(blocks.requires_grad_())[3], blocks)[0]
    assert (gradient.abs().sum(-1) > 1e-4).all()


def test_the_order_is_random_in_training():
    prior, blocks = prior_of("autoregressive", 3).train(), some_blocks(2, 5, 3)
    torch.manual_seed(7)
    drawn = prior(blocks)
    torch.manual_seed(7)
    order = torch.rand(5).argsort()
    assert order.tolist() != list(range(5))
    torch.testing.assert_close(drawn[:, order], prior.eval()(blocks[:, order]))


@every_prior
def test_gradients_are_those_of_finite_differences(name):
    prior, blocks = prior_of(name, 2), some_blocks(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(prior, blocks)
    for parameter in prior.parameters():
        gradient = torch.autograd.grad(prior(blocks).sum(), parameter)[0]
        direction, step = torch.randn_like(parameter), 1e-6
        with torch.no_grad():
            ends = []
            for sign in (1, -2):
                parameter += sign * step * direction
                ends.append(prior(blocks).sum())
            parameter += step * direction
        difference = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-6)


@every_prior
def test_draws_have_the_density(name):
    """The mean of N(M; 0, 3^2 I) / p(M) over draws of a block is one, whatever the blocks before."""
    distribution = prior_of(name, 2).next_block(some_blocks(3, 2))
    draws = distribution.sample((40_000,))
    ratios = (Normal(draws.mean(0), draws.std(0) / 2).log_prob(draws).sum(-1) - distribution.log_prob(draws)).exp()
    assert ratios.mean().item() == pytest.approx(1, abs=5 * ratios.std().item() / math.sqrt(len(ratios)))


def test_the_kl_of_a_normal_is_in_closed_form():
    prior, loc = prior_of("standard_normal", 3), some_blocks(2, 4, 3)
    scale = some_blocks(4, 3).exp()
    expected = kl_divergence(Normal(loc, scale), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(prior.kl_of_normal(loc, scale.expand_as(loc)), expected)
    with pytest.raises(NotImplementedError, match="no closed form"):
        prior_of("autoregressive", 3).kl_of_normal(loc, scale)
