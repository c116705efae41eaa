"""Annealed importance sampling, against closed forms, quadrature and importance sampling."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from inference.importance.annealing import annealed_score
from inference.importance.estimator import Part, Proposal, importance_score
from inference.importance.search import refined_proposal
from inference.tracing import written_memory
from kpp_pyro.errors import InputError
from tests.exact import linear_episodes
from tests.programs import random_episodes, small_pair

BIG = 10**6


class LatentProgram:
    """z ~ N(0, I), x ~ N(f(z), noise^2 I), and a guide that knows nothing of x.

    Args:
        image: f, latents (..., D) to pixels (..., P).
        latents: D.
        noise: deviation of pixels.
    """

    def __init__(self, image, latents, noise):
        self.image, self.latents, self.noise = image, latents, noise

    def model(self, episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2), pyro.plate("images", episode.shape[1], dim=-1):
            latent = pyro.sample("latent", dist.Normal(episode.new_zeros(self.latents), 1.0).to_event(1))
            image = self.image(latent).unflatten(-1, episode.shape[2:])
            pyro.sample("image", dist.Normal(image, self.noise).to_event(3), obs=episode)

    def guide(self, episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2), pyro.plate("images", episode.shape[1], dim=-1):
            pyro.sample("latent", dist.Normal(episode.new_full((self.latents,), 0.3), 0.5).to_event(1))

    @property
    def proposal(self):
        return Proposal((Part(0.5, self.guide), Part(0.5, self.guide)))


def linear_case():
    """A program with a correlated normal posterior, images, and ln p(x) of each."""
    design, noise = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 0.6
    program, episode = LatentProgram(lambda latent: latent @ design.mT, 3, noise), 0.5 * linear_episodes(2, 3)
    covariance = design @ design.mT + noise**2 * torch.eye(4, dtype=torch.float64)
    return program, episode, MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(episode.flatten(2))


def squared_case():
    """x ~ N(z^2, 0.3^2) with a posterior of two modes, and ln p(x) by the trapezoidal rule."""
    program, episode = LatentProgram(torch.square, 1, 0.3), torch.tensor([0.2, 1.0, 2.5]).double().view(1, 3, 1, 1, 1)
    latent = torch.linspace(-8, 8, 20_001, dtype=torch.float64).view(-1, 1, 1)
    pixels = episode.flatten(2).squeeze(-1)
    joint = Normal(0.0, 1.0).log_prob(latent) + Normal(latent.square(), 0.3).log_prob(pixels)
    return program, episode, torch.trapezoid(joint.exp(), latent, dim=0).log()


@pytest.mark.parametrize("case", [linear_case, squared_case])
@pytest.mark.parametrize("temperatures", [1, 2, 25])
def test_weights_are_unbiased_with_any_number_of_temperatures(case, temperatures):
    program, episode, truth = case()
    particles = 40_000 if temperatures < 25 else 2_000
    score = annealed_score(
        program.model, program.proposal, episode, particles=particles, temperatures=temperatures, at_once=BIG
    )
    ratio, relative_error = (score.log_likelihood - truth).exp(), score.monte_carlo_error
    assert ((ratio - 1).abs() < 5 * relative_error).all()
    assert relative_error.max() < 0.4


def test_weights_vary_less_with_more_temperatures():
    program, episode, truth = linear_case()
    scores = [
        annealed_score(program.model, program.proposal, episode, particles=500, temperatures=number, at_once=BIG)
        for number in (1, 10, 50)
    ]
    sizes = [score.effective_sample_size.mean().item() for score in scores]
    assert sizes[0] < 0.5 * sizes[1] < 0.5 * sizes[2] and sizes[2] > 350
    torch.testing.assert_close(scores[2].log_likelihood, truth, rtol=0, atol=0.1)
    assert (scores[2].pareto_k < scores[2].pareto_k_limit).all()
    assert list(scores[2].bounds) == [1, 2, 5, 10, 20, 50, 100, 200, 500]
    torch.testing.assert_close(scores[2].bounds[500], scores[2].log_likelihood)


@pytest.mark.usefixtures("as_in_a_run")
def test_an_image_that_a_prior_of_memories_predicts_costs_what_importance_sampling_says():
    parts = {"memory_guide": "normal", "latent_prior": "read", "read_order": "sequence", "episode_length": 5}
    pair = small_pair(memory_prior="autoregressive", **parts).eval()
    for number, parameter in enumerate(pair.model.block_prior.parameters()):
        generator = torch.Generator().manual_seed(number)
        parameter.data += 0.01 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    memory, cues = written_memory(pair.guide, random_episodes(2, 5)), random_episodes(2, 1, seed=9)
    following = pair.model.next_image, pair.guide.next_image(cues)
    proposal = refined_proposal(*following, cues, memory, steps=400)
    annealed = annealed_score(following[0], proposal, cues, memory, particles=200, temperatures=20)
    plain = importance_score(following[0], proposal, cues, memory, particles=5_000, at_once=BIG)
    error = (annealed.monte_carlo_error.square() + plain.monte_carlo_error.square()).sqrt()
    assert ((annealed.log_likelihood - plain.log_likelihood).abs() < 5 * error + 1e-3).all()


@pytest.mark.usefixtures("as_in_a_run")
@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"write": "allocate"}, "key, latent"),
        ({"model": "two_layer_vae"}, "key, latent"),
        ({"model": "vae", "latent_guide": "flow"}, "latent"),
    ],
    ids=["key", "two layers", "flow"],
)
def test_what_is_not_one_normal_is_refused(parts, found):
    pair, episode = small_pair(**parts), random_episodes(1, 3)
    proposal = refined_proposal(pair.model, pair.guide, episode, steps=2)
    sentence = f"temperatures: expected one normal to be all that is random of an image, found {found}"
    with pytest.raises(InputError, match=f"^{sentence}$"):
        annealed_score(pair.model, proposal, episode, particles=10, temperatures=5)
