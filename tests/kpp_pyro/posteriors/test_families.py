"""What all families of posteriors have in common."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch import Size, Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import kl_divergence

from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.posteriors.families import MeanFieldPosterior
from kpp_pyro.posteriors.interface import Posterior

CONTEXT = 5
every_family = pytest.mark.parametrize("family", POSTERIORS.values(), ids=POSTERIORS)
learned_family = pytest.mark.parametrize("family", list(POSTERIORS.values())[1:], ids=list(POSTERIORS)[1:])
every_event = pytest.mark.parametrize("event", [(2,), (5,), (2, 3)], ids=str)


def inputs(event: tuple[int, ...], *batch: int) -> tuple[Tensor, Tensor, Tensor]:
    loc, scale = torch.randn(*batch, *event).double(), torch.rand(*batch, *event).double() + 0.2
    return loc, scale, torch.randn(*batch, CONTEXT).double()


def strengthened(family: type[Posterior], event: tuple[int, ...]) -> Posterior:
    """A member of a family that is not the mean field."""
    posterior = family(CONTEXT, Size(event)).double()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return posterior


@every_family
@every_event
def test_batches_events_and_plates(family: type[Posterior], event: tuple[int, ...]) -> None:
    q = strengthened(family, event)(*inputs(event, 3, 4))
    assert q.batch_shape == (3, 4) and q.event_shape == event and q.has_rsample
    assert q.expand((3, 4)) is q
    wide = q.expand((6, 3, 4))
    value = wide.rsample()
    assert value.shape == wide.mode.shape == (6, 3, 4, *event) and value.dtype == torch.float64
    torch.testing.assert_close(wide.log_prob(value), torch.stack([q.log_prob(each) for each in value]))
    torch.testing.assert_close(wide.log_prob(value.clone()), wide.log_prob(value))
    torch.testing.assert_close(wide.mode[2], q.mode)


@every_family
def test_images_do_not_mix(family: type[Posterior]) -> None:
    posterior, (loc, scale, context) = strengthened(family, (2, 3)), inputs((2, 3), 3, 4)
    value = torch.randn(3, 4, 2, 3).double()
    alone = posterior(loc[1, 2], scale[1, 2], context[1, 2])
    together = posterior(loc, scale, context).log_prob(value)[1, 2]
    torch.testing.assert_close(alone.log_prob(value[1, 2]), together)


@learned_family
def test_it_starts_near_the_mean_field_and_contexts_make_a_difference(family: type[Posterior]) -> None:
    posterior, (loc, scale, context) = family(CONTEXT, Size((2, 3))).double(), inputs((2, 3), 50)
    base = MeanFieldPosterior(CONTEXT, Size((2, 3)))(loc, scale, context)
    draws = base.sample((100,))
    difference = posterior(loc, scale, context).log_prob(draws) - base.log_prob(draws)
    assert 0 < difference.abs().mean() < 0.3
    other = posterior(loc, scale, context + 1).log_prob(draws)
    assert not torch.isclose(posterior(loc, scale, context).log_prob(draws), other, rtol=1e-9).any()


@every_family
def test_draws_have_the_density(family: type[Posterior]) -> None:
    """E_q[g / q] is the integral of g, for a density g inside of q: it is 1."""
    q = strengthened(family, (2,))(*inputs((2,), 3))
    within = DiagonalNormal(q.mode, 0.3 * q.scale if hasattr(q, "scale") else 0.3 * q.stddev)
    draws = q.sample((20_000,))
    weights = (within.log_prob(draws) - q.log_prob(draws)).exp()
    assert ((weights.mean(0) - 1).abs() < 5 * weights.std(0) / 20_000**0.5).all()
    assert weights.max() < 100


@every_family
def test_the_divergence_is_closed_where_it_says_so(family: type[Posterior]) -> None:
    q = strengthened(family, (2, 3))(*inputs((2, 3), 4))
    prior = DiagonalNormal(torch.zeros(2, 3).double(), torch.ones(2, 3).double(), 2).expand((4,))
    if not family.closed_kl:
        with pytest.raises(NotImplementedError):
            kl_divergence(q, prior)
        return
    draws = q.sample((20_000,))
    terms = q.log_prob(draws) - prior.log_prob(draws)
    assert ((terms.mean(0) - kl_divergence(q, prior)).abs() < 5 * terms.std(0) / 20_000**0.5).all()


@learned_family
@every_event
def test_every_parameter_learns_from_the_start(family: type[Posterior], event: tuple[int, ...]) -> None:
    posterior = family(CONTEXT, Size(event))
    loc, scale, context = (tensor.float() for tensor in inputs(event, 3, 4))
    q = posterior(loc, scale, context)
    value = q.rsample((2,))
    target = value.flatten(3).sum(-1).tanh()  # the shifts of the last coupling say nothing about the entropy
    (q.log_prob(value) - target).sum().backward()
    for name, parameter in posterior.named_parameters():
        assert parameter.grad is not None and parameter.dtype == torch.float32
        assert (parameter.grad != 0).any(), name


@every_family
def test_on_a_pretended_gpu_nothing_leaves_it_and_no_value_is_asked_for(family: type[Posterior]) -> None:
    with FakeTensorMode(), pyro.validation_enabled(False), torch.device("cuda", 0):
        posterior, arguments = family(CONTEXT, Size((2, 3))), inputs((2, 3), 3, 4)
        q = posterior(*(tensor.float() for tensor in arguments)).expand((6, 3, 4))
        density = q.log_prob(q.rsample())
        assert density.device == q.mode.device == torch.device("cuda", 0) and density.dtype == torch.float32
