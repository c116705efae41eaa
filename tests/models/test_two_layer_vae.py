"""The VAE with two stochastic layers: against densities by hand, and where ln p(x) is known in closed form."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Size, nn
from torch.distributions import MultivariateNormal, Normal
from torch.nn.functional import gelu, softplus

from inference.importance.estimator import importance_score, widened_proposal
from inference.objectives import make_objective
from inference.tracing import elbo_terms
from kpp_pyro.posteriors.families import MeanFieldPosterior
from kpp_pyro.priors.keys import StandardNormalPrior
from models.memory_model import GuideNetworks
from models.two_layer_vae import TwoLayerVaeGuide, TwoLayerVaeModel
from tests.exact import linear_episodes
from tests.programs import random_episodes, small_pair

SIZES = {"key_size": 3, "latent_size": 5}
EPISODES, IMAGES = 2, 6
PIXELS = 4
SHAPE = (1, 2, 2)
contexts = pytest.mark.parametrize("context", ["image", "image_and_read"])


def program(**changes):
    return small_pair(model="two_layer_vae", **{**SIZES, **changes})


def prior_by_hand(model, key):
    """Location and scale of p(z | y), from the weights of its network."""
    first, _, head = model.reading.network
    loc, raw = (gelu(key @ first.weight.T + first.bias) @ head.linear.weight.T + head.linear.bias).chunk(2, -1)
    return loc, 0.05 + (raw - 2).exp().log1p()


def by_hand(pair, episode):
    """ELBO terms of one draw: ln p(x|z), and ln q - ln p of key and latent, (B, T)."""
    model, guide = pair.model, pair.guide
    features = guide.encoder(episode)
    (key_loc, key_scale), (loc, scale) = guide.to_key(features), guide.to_latent(features)
    key = key_loc + key_scale * torch.randn_like(key_loc)
    prior = prior_by_hand(model, key)
    if guide.correction is not None:
        variance = 1 / (1 / scale**2 + 1 / prior[1] ** 2)
        loc, scale = variance * (loc / scale**2 + prior[0] / prior[1] ** 2), variance.sqrt()
        shift, log_change = guide.correction(features, key)
        loc, scale = loc + scale * shift, scale * log_change.exp()
    latent = loc + scale * torch.randn_like(loc)
    logits = model.decoder(latent)
    kl = {
        "key": (Normal(key_loc, key_scale).log_prob(key) - Normal(0.0, 1.0).log_prob(key)).sum(-1),
        "latent": (Normal(loc, scale).log_prob(latent) - Normal(*prior).log_prob(latent)).sum(-1),
    }
    return (episode * logits - softplus(logits)).sum((-3, -2, -1)), kl


@contexts
@pytest.mark.parametrize("validation", [True, False])
def test_the_elbo_and_its_gradient_are_those_written_out_by_hand(context, validation):
    pair, episode = program(latent_context=context), random_episodes(EPISODES, IMAGES)
    torch.manual_seed(7)
    with pyro.validation_enabled(validation):
        loss = make_objective("trace")(pair.model, pair.guide)(episode)
    torch.manual_seed(7)
    log_likelihood, kl = by_hand(pair, episode)
    elbo = log_likelihood - kl["key"] - kl["latent"]
    torch.testing.assert_close(-loss, elbo.sum())
    parameters = list(pair.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(value, parameters) for value in (-loss, elbo.sum())), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.manual_seed(7)
    terms = elbo_terms(pair.model, pair.guide, episode)
    assert terms.kl.keys() == {"key", "latent"}
    torch.testing.assert_close((terms.elbo, terms.kl), (elbo, kl))


@contexts
def test_closed_kls_are_those_of_the_draw_of_the_key(context):
    """KL(q(y|x) || p(y)) is exact; KL(q(z|x, y) || p(z|y)) depends on the draw of y."""
    pair, episode = program(latent_context=context), random_episodes(EPISODES, IMAGES)
    torch.manual_seed(7)
    loss = make_objective("mean_field")(pair.model, pair.guide)(episode)
    torch.manual_seed(7)
    encoding = pair.guide.encode(episode)
    of_key = pair.guide.key_posterior(encoding)
    key = of_key.rsample()
    of_latent = pair.guide.latent_posterior(encoding, episode.new_zeros(EPISODES, 1, 0), key)
    latent = of_latent.rsample()
    posterior, prior = of_latent.base_dist, Normal(*prior_by_hand(pair.model, key))
    closed = torch.distributions.kl_divergence(posterior, prior).sum()
    closed = closed + torch.distributions.kl_divergence(of_key.base_dist, Normal(0.0, 1.0)).sum()
    logits = pair.model.decoder(latent)
    torch.testing.assert_close(-loss, (episode * logits - softplus(logits)).sum() - closed)


def test_the_lower_latent_starts_near_the_prior_of_a_vae():
    with torch.no_grad():
        loc, scale = prior_by_hand(small_pair(model="two_layer_vae").model, torch.randn(500, 32, dtype=torch.float64))
    assert loc.abs().mean() < 0.5 and loc.mean() == pytest.approx(0, abs=0.1)
    assert scale.std() < 0.3 and scale.mean() == pytest.approx(1, abs=0.1)


@contexts
def test_the_posterior_of_the_lower_latent_depends_on_its_own_upper_latent(context):
    pair, episode = program(latent_context=context), random_episodes(1, 3)
    encoding = pair.guide.encode(episode)
    key = torch.randn(1, 3, 3, dtype=torch.float64, requires_grad=True)
    posterior = pair.guide.latent_posterior(encoding, episode.new_zeros(1, 1, 0), key)
    for parameter in (posterior.mean, posterior.stddev):
        for image in range(3):
            (slopes,) = torch.autograd.grad(parameter[0, image].sum() + 0 * key.sum(), key, retain_graph=True)
            depends = slopes.abs().amax(-1)[0] > 0
            assert depends.tolist() == [context == "image_and_read" and other == image for other in range(3)]


# Linear and normal


class LinearReading(nn.Module):
    """p(z | y) = N(a y, s^2)."""

    def forward(self, key):
        return A * key, torch.full_like(key, S)


class LinearImages(TwoLayerVaeModel):
    """x ~ N(B z, t^2 I), with a linear decoder."""

    def image_likelihood(self, latent):
        return dist.Normal(self.decoder(latent).unflatten(-1, SHAPE), T).to_event(3)


class LinearHead(nn.Module):
    """A normal whose mean is linear in the features, and whose scale is constant."""

    def __init__(self, weight, scale):
        super().__init__()
        self.weight, self.scale = weight, scale

    def forward(self, features):
        loc = features @ self.weight
        return loc, torch.full_like(loc, self.scale)


class Widening(nn.Module):
    """A correction that leaves the location and multiplies the scale by a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, features, key):
        return torch.zeros_like(key), torch.full_like(key, math.log(self.factor))


A, S, T = 1.3, 0.7, 0.5
B = torch.tensor([1.0, -0.5, 0.8, 0.3], dtype=torch.float64)


def linear_program(widening=1.0):
    """y ~ N(0, 1), z ~ N(a y, s^2), x ~ N(B z, t^2 I), and its exact posterior, or one wider by a factor.

    q(y | x)    = N(u a B^T C^-1 x, u),    1 / u = 1 + a^2 B^T C^-1 B,  C = s^2 B B^T + t^2 I
    q(z | x, y) = the product of p(z | y) and p(x | z), which in z is a normal N(B^T x / |B|^2, t^2 / |B|^2)
    """
    of_key = A * B @ (S**2 * torch.outer(B, B) + T**2 * torch.eye(PIXELS)).inverse()
    u = 1 / (1 + A * of_key @ B)
    decoder = nn.Linear(1, PIXELS, bias=False)
    decoder.weight.data = B.unsqueeze(-1)
    model = LinearImages(LinearReading(), StandardNormalPrior(Size([1]), SHAPE), decoder, SHAPE).double()
    family = MeanFieldPosterior(PIXELS, Size([1]))
    networks = GuideNetworks(nn.Flatten(2), PIXELS, family, Widening(widening))
    guide = TwoLayerVaeGuide(networks, 1, 0.05, family, model.reading).double()
    guide.to_latent = LinearHead((B / (B @ B)).unsqueeze(-1), T / B.norm().item())
    guide.to_key = LinearHead((u * of_key).unsqueeze(-1), widening * u.sqrt().item())
    return model, guide


def log_evidence(episode):
    covariance = (A**2 + S**2) * torch.outer(B, B) + T**2 * torch.eye(PIXELS)
    return MultivariateNormal(torch.zeros(PIXELS).double(), covariance).log_prob(episode.flatten(2))


def test_the_elbo_of_the_exact_posterior_is_the_evidence_for_every_draw():
    episode = linear_episodes(2, 3)
    for _ in range(3):
        terms = elbo_terms(*linear_program(), episode)
        torch.testing.assert_close(terms.elbo, log_evidence(episode))


@pytest.mark.usefixtures("as_in_a_run")
def test_importance_weights_of_a_wider_posterior_estimate_the_evidence():
    (model, guide), episode = linear_program(widening=1.3), linear_episodes(2, 3)
    assert (elbo_terms(model, guide, episode).elbo - log_evidence(episode)).abs().max() > 0.1
    score = importance_score(model, widened_proposal(model, guide, episode), episode, particles=20_000)
    assert ((score.log_likelihood - log_evidence(episode)).abs() < 5 * score.monte_carlo_error).all()
    assert score.monte_carlo_error.max() < 0.02
