"""The low-rank normal is torch's multivariate normal of the flattened event."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, kl_divergence

from kpp_pyro.distributions.low_rank_normal import LowRankNormal
from kpp_pyro.fast_pyro import DiagonalNormal

EVENTS = [(5,), (2, 3), (1, 2, 2)]
every_event = pytest.mark.parametrize("event", EVENTS, ids=str)


def pair(
    event: tuple[int, ...], *batch: int, rank: int = 3, gain: float = 1.0
) -> tuple[LowRankNormal, LowRankMultivariateNormal]:
    loc, scale = torch.randn(*batch, *event).double(), torch.rand(*batch, *event).double() + 0.2
    factor = gain * torch.randn(*batch, *event, rank).double()
    dims = len(event)
    flat = LowRankMultivariateNormal(loc.flatten(-dims), factor.flatten(-dims - 1, -2), scale.flatten(-dims).square())
    return LowRankNormal(loc, scale, factor, dims), flat


@every_event
@pytest.mark.parametrize("rank", [1, 4])
def test_density_and_moments_are_those_of_a_multivariate_normal(event: tuple[int, ...], rank: int) -> None:
    ours, theirs = pair(event, 4, 3, rank=rank)
    value = 2 * torch.randn(7, 4, 3, *event).double()
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value.flatten(3)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.mean.flatten(2), theirs.mean)
    torch.testing.assert_close(ours.mode, ours.mean)
    torch.testing.assert_close(ours.stddev.flatten(2), theirs.stddev)


def test_draws_have_the_covariance() -> None:
    ours, theirs = pair((2, 2), 2)
    draws = ours.rsample((100_000,)).flatten(2)  # (N, 2, D)
    for index in range(2):
        expected = theirs.covariance_matrix[index]
        variances = expected.diagonal()
        error = (expected.square() + torch.outer(variances, variances)).div(1e5).sqrt()  # Isserlis
        assert ((draws[:, index].T.cov() - expected).abs() < 5 * error).all()
        assert ((draws[:, index].mean(0) - theirs.loc[index]).abs() < 5 * (variances / 1e5).sqrt()).all()


@every_event
def test_the_divergence_to_a_normal_is_that_of_a_multivariate_normal(event: tuple[int, ...]) -> None:
    ours, theirs = pair(event, 4)
    loc, scale = torch.randn(event).double(), torch.rand(event).double() + 0.5
    prior = DiagonalNormal(loc, scale, len(event))
    dense = MultivariateNormal(loc.flatten(), scale.flatten().square().diag())
    torch.testing.assert_close(kl_divergence(ours, prior), kl_divergence(theirs, dense))
    torch.testing.assert_close(
        kl_divergence(ours.expand((6, 4)), prior.expand((6, 4)))[3], kl_divergence(theirs, dense)
    )


def test_the_divergence_agrees_with_monte_carlo() -> None:
    ours, _ = pair((2, 2), 3)
    prior = DiagonalNormal(torch.zeros(2, 2).double(), torch.ones(2, 2).double(), 2)
    draws = ours.sample((50_000,))
    terms = ours.log_prob(draws) - prior.log_prob(draws)
    assert ((terms.mean(0) - kl_divergence(ours, prior)).abs() < 5 * terms.std(0) / 50_000**0.5).all()


def test_the_divergence_to_anything_else_is_not_known() -> None:
    ours, _ = pair((4,))
    with pytest.raises(NotImplementedError, match="normal"):
        kl_divergence(ours, dist.Laplace(torch.zeros(4), torch.ones(4)).to_event(1))


def test_it_expands_to_new_plates_and_stays_itself_in_its_own() -> None:
    ours, _ = pair((2, 3), 4, 1)
    assert ours.expand((4, 1)) is ours
    wide = ours.expand((7, 4, 5))
    draws = wide.rsample((2,))
    assert draws.shape == (2, 7, 4, 5, 2, 3) and wide.mean.shape == wide.stddev.shape == (7, 4, 5, 2, 3)
    assert not torch.isclose(draws[0, 0, 0, 0], draws[0, 0, 0, 1]).any()
    torch.testing.assert_close(wide.log_prob(draws), ours.log_prob(draws))
    assert wide.log_prob(draws[0, 0, 0, 0]).shape == (7, 4, 5)


def test_float32_keeps_its_digits_where_a_factor_is_a_thousand_times_the_scale() -> None:
    scale, factor = torch.full((6,), 1e-3), torch.randn(6, 4)
    exact = LowRankNormal(torch.zeros(6).double(), scale.double(), factor.double())
    value = exact.sample((200,))
    single = LowRankNormal(torch.zeros(6), scale, factor).log_prob(value.float())
    torch.testing.assert_close(single.double(), exact.log_prob(value.float().double()), rtol=0, atol=0.02)


def test_gradients_of_draws_densities_and_divergences() -> None:
    prior = DiagonalNormal(torch.zeros(2, 2).double(), torch.ones(2, 2).double(), 2)

    def function(loc: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        q = LowRankNormal(loc, scale, factor, 2)
        draws = q.rsample((3,))
        return draws, q.log_prob(draws), q.log_prob(points), kl_divergence(q, prior)

    points = torch.randn(3, 2, 2, 2).double()
    q, _ = pair((2, 2), 2, rank=2)
    inputs = [tensor.requires_grad_() for tensor in (q.loc, q.scale, q.factor)]
    assert torch.autograd.gradcheck(function, inputs)
