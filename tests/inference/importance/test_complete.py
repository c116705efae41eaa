"""Complete scores, which include the KL of the memory, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from inference.importance import complete
from inference.importance.complete import CompleteScore, _resampled, complete_score, summarize_complete
from inference.importance.estimator import defensive_proposal, importance_score
from inference.tracing import elbo_terms
from kpp_pyro.distributions.block_memory import memory_of
from tests.exact import (
    ExchangeableBlocks,
    LinearProgram,
    block_evidence,
    block_posterior,
    block_program,
    drawn_blocks,
    linear_episodes,
    next_image_evidence,
    tiny_episodes,
    tiny_program,
)
from tests.programs import random_episodes, small_pair

pytestmark = pytest.mark.usefixtures("as_in_a_run")
COPIES = 3000  # of an episode, each with its own particles


@pytest.fixture
def all_at_once(monkeypatch):
    monkeypatch.setattr(complete, "PARTICLE_IMAGES_AT_ONCE", 10**7)


def episodes_of(model, episodes: int, images: int) -> Tensor:
    return model.image_likelihood(drawn_blocks(episodes, images)).sample()


def copies(episode: Tensor) -> Tensor:
    return episode.expand(COPIES, *episode.shape[1:])


def assert_mean(values: Tensor, expected: float | Tensor, within: float) -> None:
    """The mean over the first axis is as expected within five standard errors, which are small enough to tell."""
    error = values.std(0) / math.sqrt(len(values))
    assert (error < within / 5).all(), error
    assert ((values.mean(0) - expected).abs() <= 5 * error + 1e-9).all(), (values.mean(0), expected, error)


@pytest.mark.parametrize(("images", "in_order"), [(1, True), (3, True), (6, True), (3, False)])
def test_many_particles_find_the_evidence_of_each_image_given_those_before(images, in_order, all_at_once):
    """Of one image, of as many as there are blocks, and with blocks that stay empty; without keys, and with them.

    The guide's key of image t reads block t, to which the prior of keys gives a probability.
    """
    model, guide = block_program(noise=0.01, in_order=in_order, widening=1.0)
    episode = episodes_of(model, 2, images)
    score = complete_score(model, guide, episode, 25_000)
    masses = model.addressing.cell_masses(episode)[:images]
    expected = block_evidence(model, episode) + (0 if in_order else masses.log())
    assert (score.pareto_k < 0.3).all()
    torch.testing.assert_close(score.log_likelihood, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("changes", [{}, {"has_latents": True}, {"in_order": False}], ids=str)
def test_few_particles_are_an_unbiased_estimate_of_the_evidence_of_an_episode(changes):
    model, guide = block_program(**changes)
    episode = episodes_of(model, 1, images=4)
    expected = block_evidence(model, episode).sum()
    if "in_order" in changes:
        expected = expected + model.addressing.cell_masses(episode)[:4].log().sum()
    score = complete_score(model, guide, copies(episode), 20)
    assert_mean((score.log_likelihood.sum(1) - expected).exp(), 1.0, within=0.2)


def elbo_of_blocks(model, guide, episode: Tensor) -> Tensor:
    """The complete ELBO of each image of a `block_program` without latents, (B, T): expectations of normals."""
    encoding = guide.encode(episode)
    loc, variance = encoding.latent_loc, encoding.latent_scale.square()  # (B, T, S)
    design, images = model.decoder.network[0].weight, loc.shape[1]
    left = (episode - model.decoder(loc)).flatten(2).square().sum(-1) + variance @ design.square().sum(0)
    reconstruction = -left / (2 * model.noise**2) - len(design) / 2 * math.log(2 * math.pi * model.noise**2)
    prior, before = ExchangeableBlocks(), torch.ones(images, images).tril(-1).double()
    gain = torch.tensor([prior.gain(n) for n in range(images)], dtype=torch.float64)[:, None]
    expected = torch.tensor([prior.variance(n) for n in range(images)], dtype=torch.float64)[:, None]
    distance = (loc - gain * (before @ loc)).square() + variance + gain.square() * (before @ variance)
    log_prior = -(distance / expected + (2 * math.pi * expected).log()).sum(-1) / 2
    entropy = (1 + (2 * math.pi * variance).log()).sum(-1) / 2
    return reconstruction + log_prior + entropy


@pytest.mark.parametrize("images", [3, 6])
def test_the_complete_elbo_is_that_of_normals(images):
    model, guide = block_program()
    episode = episodes_of(model, 1, images)
    score = complete_score(model, guide, copies(episode), 4)
    expected = elbo_of_blocks(model, guide, episode)[0].detach()
    assert_mean(score.elbo, expected, within=0.25)
    assert_mean(elbo_terms(model, guide, copies(episode)).elbo.sum(1), expected.sum(), within=0.5)
    assert expected.sum() < block_evidence(model, episode).sum() - 0.1


@torch.no_grad()
def test_a_left_out_image_costs_as_much_after_the_others_as_by_the_memories_that_they_leave():
    """ln p(x_T | x_1 ... x_T-1): the last increment of a complete score, and a mean over posterior memories."""
    model, guide = block_program()
    episode = episodes_of(model, 1, images=4)
    written, last = episode[:, :-1], episode[:, -1:]
    expected = block_evidence(model, episode)[0, -1]
    increment = complete_score(model, guide, episode, 20_000).log_likelihood[0, -1]
    assert increment.item() == pytest.approx(expected.item(), abs=0.05)
    blocks = block_posterior(model, written).sample((COPIES,)).view(COPIES, 3, 2)
    cues, memory = copies(last), memory_of(blocks, model.addressing.layout).unsqueeze(1)
    proposal = defensive_proposal(model.next_image, guide.next_image(cues), cues, memory)
    found = importance_score(model.next_image, proposal, cues, memory, particles=20, at_once=10**6)
    exact = next_image_evidence(model, cues, blocks)
    assert_mean((found.log_likelihood - exact).exp(), 1.0, within=0.1)
    assert_mean((found.log_likelihood - expected).exp(), 1.0, within=0.2)
    assert exact.std() > 0.1  # memories do not all say the same


@pytest.mark.parametrize("has_latents", [False, True])
@torch.no_grad()
def test_an_image_that_was_not_written_is_scored_given_any_memory(has_latents):
    model, guide = block_program(has_latents=has_latents)
    images, blocks = episodes_of(model, 3, 2), drawn_blocks(3, 4)
    memory = memory_of(blocks, model.addressing.layout).unsqueeze(1)
    proposal = defensive_proposal(model.next_image, guide.next_image(images), images, memory)
    found = importance_score(model.next_image, proposal, images, memory, particles=20_000, at_once=10**6)
    error = (found.log_likelihood - next_image_evidence(model, images, blocks)).abs()
    assert (found.monte_carlo_error < 0.03).all()
    assert (error < 5 * found.monte_carlo_error).all()


def test_resampling_keeps_each_particle_as_often_as_its_weight_on_average():
    torch.manual_seed(1)
    log_weights = torch.randn(7, 3, dtype=torch.float64).repeat_interleave(20_000, 1)  # (K, B): three sets of weights
    drawn = _resampled(log_weights)
    counts = (drawn.unsqueeze(0) == torch.arange(7).view(-1, 1, 1)).sum(1).double()  # (K, B)
    expected = 7 * log_weights.softmax(0)
    for part in range(3):
        of_part = slice(20_000 * part, 20_000 * (part + 1))
        assert_mean(counts[:, of_part].mT, expected[:, of_part].mT[0], within=0.05)
    assert ((counts - expected).abs() < 1).all()  # systematic: rounded down or up


def test_a_particle_without_weight_is_never_kept():
    log_weights = torch.tensor([-math.inf, 0.0, -math.inf, 1.0, -math.inf], dtype=torch.float64).view(5, 1)
    for _ in range(100):
        assert set(_resampled(log_weights).flatten().tolist()) == {1, 3}


def test_a_memory_that_is_drawn_whole_and_exactly_costs_the_evidence():
    program, episode = LinearProgram(random=True), linear_episodes()
    score = complete_score(program.model, program.guide, episode, 100)
    expected = program.log_evidence(episode)
    torch.testing.assert_close(score.log_likelihood, (expected / 3).unsqueeze(1).expand(2, 3), rtol=0, atol=0.05)
    torch.testing.assert_close(score.elbo.sum(1), expected)


def test_a_memory_that_is_drawn_whole_is_an_unbiased_estimate():
    program, episode = LinearProgram(random=True, widening=1.2), linear_episodes(1)
    score = complete_score(program.model, program.guide, copies(episode), 9)
    assert_mean((score.log_likelihood.sum(1) - program.log_evidence(episode)).exp(), 1.0, within=0.2)


def test_a_memory_that_is_a_function_of_the_images_has_no_complete_score():
    linear = LinearProgram()
    assert complete_score(linear.model, linear.guide, linear_episodes(), 10) is None
    tiny = tiny_program()
    assert complete_score(tiny.model, tiny.guide, tiny_episodes(), 10) is None
    for name in ("vae", "two_layer_vae"):
        pair = small_pair(model=name)
        assert complete_score(pair.model, pair.guide, random_episodes(1, 2), 10) is None


def test_means_by_number_leave_out_numbers_at_the_end_that_hardly_occur():
    numbers = torch.tensor([0] * 300 + [2] * 30 + [3] * 2 + [4])
    means = summarize_complete(
        CompleteScore(*numbers.double().expand(4, -1)), 10, {"position": numbers, "of_class_before": numbers}
    )["elbo_by_position_nats_per_image"]
    assert means[0] == 0 and math.isnan(means[1]) and means[2:] == [2]
