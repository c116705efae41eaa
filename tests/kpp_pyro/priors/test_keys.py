"""Priors of keys: mixtures against explicit sums, gradients, and what belongs to whom."""

from __future__ import annotations

import copy
import math

import pyro
import pytest
import torch
from torch import Size, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Distribution, kl_divergence

from kpp_pyro.distributions.equal_mixture import EqualMixture
from kpp_pyro.distributions.flow import FlowNormal
from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.priors import KEY_PRIORS
from kpp_pyro.priors.interface import KeyPrior
from kpp_pyro.priors.keys import VampPrior

IMAGE = (1, 3, 3)
NOT_COPIED = (DiagonalNormal, EqualMixture, FlowNormal)  # where an expansion to the same shape is the same object
every_prior = pytest.mark.parametrize("name", KEY_PRIORS)
every_key = pytest.mark.parametrize("key", [(2, 3), (4,)], ids=str)
every_family = pytest.mark.parametrize("family", POSTERIORS)


class Guide(nn.Module):
    """q(y|X) of a family, in which images of an episode also see each other."""

    def __init__(self, key: tuple[int, ...], family: str = "mean_field") -> None:
        super().__init__()
        self.key = Size(key)
        self.encoder = nn.Linear(9, self.key.numel())
        self.posterior = POSTERIORS[family](9, self.key)

    def forward(self, episode: Tensor) -> Distribution:
        features = episode.flatten(2) - 0.5 * episode.flatten(2).mean(1, keepdim=True)
        loc = self.encoder(features).unflatten(-1, self.key)
        return self.posterior(3 * loc, 0.3 + loc.square(), features)


def prior_of(name: str, key: tuple[int, ...] = (2, 3), family: str = "mean_field") -> tuple[KeyPrior, Guide]:
    prior, guide = KEY_PRIORS[name](Size(key), IMAGE).double(), Guide(key, family).double()
    prior.bind_guide(guide.forward)
    return prior, guide


def one_by_one(prior: VampPrior, guide: Guide, value: Tensor) -> Tensor:
    """ln p(y), a component at a time."""
    components = guide(prior.logits.sigmoid())
    shape, terms = components.batch_shape, []
    for e in range(shape[0]):
        for t in range(shape[1]):
            density = components.log_prob(value[..., None, None, :, :].expand(*value.shape[:-2], *shape, 2, 3))
            terms.append(density[..., e, t].exp())
    return (sum(terms) / len(terms)).log()


@every_prior
@every_key
def test_batches_events_and_plates(name: str, key: tuple[int, ...]) -> None:
    p = prior_of(name, key)[0]()
    assert p.batch_shape == () and p.event_shape == key and p.has_rsample
    wide = p.expand((3, 1)).expand((3, 4)).expand((6, 3, 4))
    again = wide.expand((6, 3, 4))
    assert again is wide or not isinstance(p, NOT_COPIED)
    value = wide.rsample((2,))
    assert value.shape == (2, 6, 3, 4, *key) and len(value.unique(dim=0)) == 2
    assert not torch.isclose(value[0, 0, 0, 0], value[0, 0, 0, 1]).all()
    torch.testing.assert_close(wide.log_prob(value[0]), p.log_prob(value[0]))
    assert p.log_prob(value[0, 0, 0, 0]).shape == ()
    if name != "flow":
        assert wide.mean.shape == wide.stddev.shape == (6, 3, 4, *key)


@pytest.mark.parametrize("name", ["standard_normal", "learned_gaussian", "vamp", "flow"])
def test_it_starts_close_to_a_standard_normal_unless_the_guide_says(name: str) -> None:
    p, value = prior_of(name)[0](), torch.randn(100, 2, 3).double()
    standard = DiagonalNormal(torch.zeros(2, 3).double(), torch.ones(2, 3).double(), 2)
    difference = (p.log_prob(value) - standard.log_prob(value)).abs().mean()
    assert (difference < 0.2) == (name != "vamp")


@every_prior
def test_the_divergence_of_a_normal_is_closed_where_it_says_so(name: str) -> None:
    q = DiagonalNormal(torch.randn(2, 3).double(), torch.rand(2, 3).double() + 0.1, 2)
    prior, _ = prior_of(name)
    if prior.closed_kl:
        assert kl_divergence(q, prior()).shape == ()
    else:
        with pytest.raises(NotImplementedError):
            kl_divergence(q, prior())


@every_prior
def test_every_parameter_learns_from_the_start(name: str) -> None:
    prior, _ = prior_of(name)
    density = prior().log_prob(torch.randn(20, 2, 3).double()).sum()
    assert density.requires_grad == any(True for _ in prior.parameters())
    if density.requires_grad:
        density.backward()
    for parameter_name, parameter in prior.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), parameter_name


@every_prior
def test_draws_have_the_density(name: str) -> None:
    """E_p[g / p] is the integral of g, for a density g inside of p: it is 1."""
    p = prior_of(name, (2,))[0]()
    assert isinstance(p, Distribution)
    within = DiagonalNormal(torch.zeros(2).double(), torch.full((2,), 0.2).double())
    draws = p.sample((10_000,))
    weights = (within.log_prob(draws) - p.log_prob(draws)).exp()
    assert (weights.mean() - 1).abs() < 5 * weights.std() / 100


@every_prior
def test_on_a_pretended_gpu_nothing_leaves_it_and_no_value_is_asked_for(name: str) -> None:
    with FakeTensorMode(), pyro.validation_enabled(False), torch.device("cuda", 0):
        prior = KEY_PRIORS[name](Size((2, 3)), IMAGE)
        prior.bind_guide(Guide((2, 3), "low_rank").forward)
        p = prior().expand((3, 4))
        assert p.log_prob(p.rsample()).device == torch.device("cuda", 0)


# The VampPrior


@every_family
def test_a_mixture_is_the_mean_of_its_components(family: str) -> None:
    prior, guide = prior_of("vamp", family=family)
    assert isinstance(prior, VampPrior)
    value = torch.randn(5, 4, 2, 3).double()
    torch.testing.assert_close(prior().log_prob(value), one_by_one(prior, guide, value))
    torch.testing.assert_close(prior().expand((5, 4)).log_prob(value), one_by_one(prior, guide, value))


@pytest.mark.parametrize("family", ["mean_field", "low_rank"])
def test_moments_of_a_mixture_are_those_of_its_draws(family: str) -> None:
    p = prior_of("vamp", family=family)[0]()
    draws = p.sample((10_000,))
    squares = (draws - p.mean).square()
    assert ((draws.mean(0) - p.mean).abs() < 5 * draws.std(0) / 100).all()
    assert ((squares.mean(0) - p.variance).abs() < 5 * squares.std(0) / 100).all()


def test_a_mixture_of_flows_has_no_moments() -> None:
    with pytest.raises(NotImplementedError):
        _ = prior_of("vamp", family="flow")[0]().mean


def test_components_are_drawn_equally_often() -> None:
    loc = torch.arange(6.0).view(2, 3, 1)
    p = EqualMixture(DiagonalNormal(loc, torch.full((2, 3, 1), 1e-3)))
    counts = p.sample((6000,)).round().flatten().long().bincount(minlength=6)
    assert ((counts - 1000).abs() < 5 * math.sqrt(1000)).all()
    torch.testing.assert_close(p.mean, torch.tensor([2.5]))
    torch.testing.assert_close(p.variance, torch.tensor([35 / 12]))


@every_family
def test_gradients_reach_pseudo_episodes_and_the_guide(family: str) -> None:
    prior, guide = prior_of("vamp", family=family)
    prior().log_prob(torch.randn(20, 2, 3).double()).sum().backward()
    for parameter in (*prior.parameters(), *guide.parameters()):
        assert parameter.grad is not None and (parameter.grad != 0).any()
    assert (prior.logits.grad != 0).all()


@every_family
def test_gradients_of_densities_and_draws(family: str) -> None:
    prior, guide = prior_of("vamp", (2,), family)
    points = torch.randn(3, 2).double()

    def function(logits: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        p = EqualMixture(guide(logits.sigmoid()))
        return p.log_prob(points), p.rsample((3,))

    logits = prior.logits.detach()[:1, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(function, (logits,))


def test_the_guide_stays_another_module() -> None:
    prior, guide = prior_of("vamp")
    assert list(prior.state_dict()) == [name for name, _ in prior.named_parameters()] == ["logits"]
    assert list(prior.modules()) == [prior]
    prior.float()
    assert guide.encoder.weight.dtype == torch.float64
    prior.double()
    twin, its_guide = copy.deepcopy((prior, guide))
    with torch.no_grad():
        its_guide.encoder.bias.add_(1)
    value = torch.zeros(2, 3).double()
    assert not torch.isclose(twin().log_prob(value), prior().log_prob(value))  # it looks through the copy


def test_without_a_guide_there_is_no_prior() -> None:
    with pytest.raises(InputError, match="bind_guide"):
        VampPrior(Size((2, 3)), IMAGE)()
