"""The diagonal normal is torch's, whatever is cheaper in it."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from kpp_pyro.fast_pyro import DiagonalNormal


def pair(event_dims: int, *batch: int) -> tuple[DiagonalNormal, dist.Independent]:
    shape = batch + (3, 2)[:event_dims]
    generator = torch.Generator().manual_seed(2)
    loc = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    scale = (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.2).requires_grad_()
    return DiagonalNormal(loc, scale, event_dims), dist.Normal(loc, scale).to_event(event_dims)


@pytest.mark.parametrize("event_dims", [1, 2])
@pytest.mark.parametrize("samples", [(), (5,)])
def test_density_and_gradients_are_those_of_independent_normals(event_dims: int, samples: tuple[int, ...]) -> None:
    ours, theirs = pair(event_dims, 4, 3)
    value = theirs.sample(samples).requires_grad_()
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value), rtol=1e-13, atol=1e-13)
    inputs = (value, theirs.base_dist.loc, theirs.base_dist.scale)
    gradients = (torch.autograd.grad(q.log_prob(value).sin().sum(), inputs) for q in (ours, theirs))
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


def test_it_expands_to_new_plates_and_stays_itself_in_its_own() -> None:
    ours, theirs = pair(1, 4, 1)
    assert ours.expand((4, 1)) is ours
    wide, wider = ours.expand((7, 4, 5)), theirs.expand((7, 4, 5))
    value = wider.sample()
    assert wide.batch_shape == (7, 4, 5) and wide.event_shape == ours.event_shape == theirs.event_shape
    torch.testing.assert_close(wide.log_prob(value), wider.log_prob(value))
    torch.testing.assert_close(wide.mean, wider.mean)


def test_draws_and_divergences_are_those_of_independent_normals() -> None:
    ours, theirs = pair(2, 4)
    prior = DiagonalNormal(torch.zeros(3, 2).double(), torch.ones(3, 2).double(), 2)
    torch.testing.assert_close(kl_divergence(ours, prior), kl_divergence(theirs, prior))
    torch.manual_seed(3)
    drawn = ours.rsample((6,))
    torch.manual_seed(3)
    assert torch.equal(drawn, theirs.rsample((6,)))


def test_a_value_of_another_shape_is_refused() -> None:
    ours, _ = pair(2, 4)
    with pytest.raises(ValueError, match="right-most"):
        DiagonalNormal(ours.mean, ours.stddev, 2, validate_args=True).log_prob(torch.zeros(4, 3, 5))
