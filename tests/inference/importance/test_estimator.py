"""Importance-sampled scores, against quadrature of tiny Kanerva++ models and closed forms of linear ones."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference.importance.estimator import (
    Part,
    Proposal,
    bound_steps,
    defensive_proposal,
    importance_score,
    weighted_draws,
)
from inference.tracing import amortized, elbo_terms, written_memory
from kpp_pyro.errors import InputError
from tests.exact import LinearProgram, linear_episodes, log_evidence, tiny_episodes, tiny_memories, tiny_program
from tests.programs import WRITES, random_episodes, small_pair

BIG = 2**14
NUMBERS = (1, 2, 7)  # of particles
both_writes = pytest.mark.parametrize("write", WRITES)
own_or_given = pytest.mark.parametrize("given", [False, True], ids=["own", "given"])


def guide_alone(guide, episode=None, memory=None):
    return Proposal((Part(1.0, guide if episode is None else amortized(guide, episode, memory)),))


@cache
def tiny_truth(write, given, episodes, images, gain):
    program, episode = tiny_program(write, gain), tiny_episodes(episodes, images)
    memory = tiny_memories(episodes) if given else written_memory(program.guide, episode)
    return log_evidence(program.model, memory, episode)


def tiny_case(write, given, episodes=2, images=3, gain=1.0, copies=None):
    """Program, episodes, memory to give, ln p(x | M); of many copies of one episode if so asked."""
    program, episode = tiny_program(write, gain), tiny_episodes(episodes, images)
    memory, truth = tiny_memories(episodes) if given else None, tiny_truth(write, given, episodes, images, gain)
    if copies:
        episode, truth = episode.repeat(copies, 1, 1, 1, 1), truth.repeat(copies, 1)
        memory = memory.repeat(copies, 1, 1, 1, 1) if given else None
    return program, episode, memory, truth


def linear_truth(program, episode, memory=None):
    """Closed form, of episodes where the memory is random."""
    if memory is None and not program.random:
        memory = written_memory(program.guide, episode)
    return program.log_evidence(episode, memory)


def linear_score(program, episode, memory=None, proposal=None, **options):
    return importance_score(program.model, proposal or guide_alone(program.guide), episode, memory, **options)


def assert_within_error(score, truth, largest):
    """A score is as good as it says, which is better than `largest` nats."""
    assert score.monte_carlo_error.max() < largest
    assert ((score.log_likelihood - truth).abs() < 4 * score.monte_carlo_error).all()


def assert_mean(values, expected):
    """The mean over the first axis is as expected, by four standard errors."""
    error = values.std(0) / math.sqrt(len(values))
    assert ((values.mean(0) - expected).abs() < 4 * error).all()


# What is estimated


@both_writes
@own_or_given
def test_kanerva_plus_plus_agrees_with_quadrature(write, given):
    program, episode, memory, truth = tiny_case(write, given)
    proposal = defensive_proposal(program.model, program.guide, episode, memory, prior_share=0.5)
    score = importance_score(program.model, proposal, episode, memory, particles=30_000, at_once=BIG)
    assert_within_error(score, truth, 1e-2)
    assert (score.log_likelihood - truth).abs().mean() < 1e-2
    assert (score.pareto_k < 0.5).all()
    assert score.log_likelihood.shape == score.effective_sample_size.shape == episode.shape[:2]


def test_draws_of_the_prior_alone_agree_with_quadrature_too():
    program, episode, memory, truth = tiny_case("feed_forward", True)
    proposal = defensive_proposal(program.model, program.guide, episode, memory, prior_share=1.0)
    score = importance_score(program.model, proposal, episode, memory, particles=30_000, at_once=BIG)
    assert_within_error(score, truth, 1e-2)


@own_or_given
def test_the_exact_posterior_scores_every_image_without_variance(given):
    program, episode = LinearProgram(), linear_episodes()
    memory = torch.randn(2, 1, 2, dtype=torch.float64) if given else None
    score = linear_score(program, episode, memory, particles=7)
    truth = linear_truth(program, episode, memory)
    assert truth.shape == (2, 3)
    torch.testing.assert_close(score.log_likelihood, truth, rtol=0, atol=1e-9)
    torch.testing.assert_close(score.effective_sample_size, torch.full_like(truth, 7))
    torch.testing.assert_close(score.elbo.elbo, truth, rtol=0, atol=1e-9)
    assert (score.monte_carlo_error < 1e-6).all()


@own_or_given
def test_a_guide_that_is_slightly_off_scores_every_image_within_its_error(given):
    program, episode = LinearProgram(widening=1.05, offset=0.02), linear_episodes()
    memory = torch.randn(2, 1, 2, dtype=torch.float64) if given else None
    score = linear_score(program, episode, memory, particles=30_000, at_once=BIG)
    assert_within_error(score, linear_truth(program, episode, memory), 1.5e-3)


def test_with_a_random_memory_the_exact_posterior_scores_every_episode_without_variance():
    program, episode = LinearProgram(random=True), linear_episodes()
    score, truth = linear_score(program, episode, particles=7), linear_truth(program, episode)
    assert truth.shape == (2,)
    torch.testing.assert_close(score.log_likelihood, truth, rtol=0, atol=1e-9)
    torch.testing.assert_close(score.effective_sample_size, torch.full_like(truth, 7))
    assert score.bounds[2].shape == score.pareto_k.shape == (2,)
    # the ELBO stays per image: its share of the memory's KL is the same for all of them
    assert score.elbo.elbo.shape == (2, 3)
    torch.testing.assert_close(score.elbo.elbo.sum(-1), truth, rtol=0, atol=1e-9)
    assert set(score.elbo.kl) == {"memory", "key", "latent"}
    assert (score.elbo.kl["memory"] == score.elbo.kl["memory"][:, :1]).all()


def test_with_a_random_memory_a_guide_that_is_slightly_off_scores_every_episode_within_its_error():
    program, episode = LinearProgram(random=True, widening=1.03, offset=0.01), linear_episodes()
    score = linear_score(program, episode, particles=30_000, at_once=BIG)
    assert_within_error(score, linear_truth(program, episode), 1.5e-3)


def test_given_its_memory_a_program_with_a_random_one_scores_every_image():
    program, episode = LinearProgram(random=True), linear_episodes()
    memory = torch.randn(2, 1, 2, dtype=torch.float64)
    score = linear_score(program, episode, memory, particles=3)
    torch.testing.assert_close(score.log_likelihood, linear_truth(program, episode, memory), rtol=0, atol=1e-9)


@pytest.mark.parametrize("random", [False, True], ids=["flat", "random"])
def test_the_error_says_how_far_scores_are_from_the_truth(random):
    program, episode = LinearProgram(random=random, widening=1.2), linear_episodes(1, 2).repeat(300, 1, 1, 1, 1)
    score = linear_score(program, episode, particles=200, at_once=300 * 2 * 100)
    standardised = (score.log_likelihood - linear_truth(program, episode)) / score.monte_carlo_error
    assert standardised.std() == pytest.approx(1, abs=0.15)
    assert standardised.abs().max() < 6


# Bias


@pytest.mark.parametrize("particles", NUMBERS)
@pytest.mark.parametrize("prior_share", [0.0, 0.3])
@pytest.mark.parametrize("random", [False, True], ids=["flat", "random"])
def test_a_likelihood_is_estimated_without_bias(random, prior_share, particles):
    program, episode = LinearProgram(random=random, widening=1.2), linear_episodes(1, 2).repeat(4000, 1, 1, 1, 1)
    proposal = defensive_proposal(program.model, program.guide, episode, prior_share=prior_share)
    score = linear_score(program, episode, proposal=proposal, particles=particles)
    assert_mean((score.log_likelihood - linear_truth(program, episode)).exp(), 1)


@pytest.mark.parametrize(("particles", "prior_share"), [(2, 0.5), (7, 0.3)])
@both_writes
@own_or_given
def test_a_little_of_the_prior_makes_up_for_what_a_guide_leaves_out(write, given, particles, prior_share):
    program, episode, memory, truth = tiny_case(write, given, 1, 2, copies=3000)
    proposal = defensive_proposal(program.model, program.guide, episode, memory, prior_share)
    score = importance_score(program.model, proposal, episode, memory, particles=particles)
    assert_mean((score.log_likelihood - truth).exp(), 1)


def test_a_guide_alone_finds_only_what_it_can_draw():
    program, episode, _, truth = tiny_case("allocate", given=False)
    encoding = program.guide.encode(episode)
    own = program.guide.key_posterior(encoding)  # never looks outside a block
    reached = log_evidence(program.model, program.guide.write(encoding), episode, support=own)
    score = importance_score(program.model, guide_alone(program.guide, episode), episode, particles=20_000, at_once=BIG)
    assert_within_error(score, reached, 2e-2)
    assert (truth - score.log_likelihood > 20 * score.monte_carlo_error).all()


@pytest.mark.parametrize("random", [False, True], ids=["flat", "random"])
def test_scores_grow_with_the_number_of_particles_up_to_the_truth(random):
    program, episode = LinearProgram(random=random, widening=1.6), linear_episodes(1, 2).repeat(2000, 1, 1, 1, 1)
    score, truth = linear_score(program, episode, particles=20), linear_truth(program, episode)
    elbo = score.elbo.elbo.sum(-1) if random else score.elbo.elbo
    assert list(score.bounds) == [1, 2, 5, 10, 20]
    steps = [*score.bounds.values(), truth]
    for lower, higher in ((elbo, score.bounds[2]), *pairwise(steps)):
        growth = higher - lower
        assert (growth.mean(0) > 4 * growth.std(0) / math.sqrt(2000)).all()
    assert_mean(score.bounds[1] - elbo, 0)  # of one particle it is the ELBO


def test_the_number_of_particles_of_every_bound():
    assert bound_steps(1) == [1]
    assert bound_steps(2) == [1, 2]
    assert bound_steps(7) == [1, 2, 5, 7]
    assert bound_steps(1000) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert bound_steps(1001) == [*bound_steps(1000), 1001]


@pytest.mark.parametrize("at_once", [1, 60, BIG])
def test_bounds_are_those_of_the_first_particles_of_every_part(at_once):
    program, episode = LinearProgram(widening=1.4), linear_episodes()
    for shares in ((1.0,), (0.6, 0.4)):
        bound = amortized(program.guide, episode)
        sites = [(), ("key", "latent")]
        proposal = Proposal(tuple(Part(share, bound, sites[index]) for index, share in enumerate(shares)))
        torch.manual_seed(3)
        score = linear_score(program, episode, proposal=proposal, particles=23, at_once=at_once)
        assert list(score.bounds) == bound_steps(23)
        torch.testing.assert_close(score.bounds[23], score.log_likelihood, rtol=0, atol=0)
        torch.manual_seed(3)
        draws = weighted_draws(program.model, proposal, episode, particles=23, at_once=at_once)
        first = torch.tensor([0, proposal.counts(23)[0]])[: len(shares)]
        log_q = part_densities(program, episode, draws.values)[: len(shares)]
        for particles, value in score.bounds.items():
            counts = torch.tensor(proposal.counts(particles))
            mixture = (log_q + (counts.double() / particles).log().view(-1, 1, 1, 1)).logsumexp(0)
            rows = torch.cat([torch.arange(a, a + n) for a, n in zip(first, counts, strict=True)])
            assert len(rows) == particles
            expected = (draws.log_joint - mixture)[rows].logsumexp(0) - math.log(particles)
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)


def part_densities(program, episode, values):
    """ln q of draws (2, K, B, T), under the guide and under the prior, by hand."""
    memory = written_memory(program.guide, episode)
    with pyro.plate("particles", len(values["key"]), dim=-3):
        trace = pyro.poutine.trace(pyro.poutine.condition(program.guide, data=values)).get_trace(episode, memory)
    guide = sum(trace.nodes[name]["fn"].log_prob(values[name]) for name in ("key", "latent"))
    read = memory + values["key"] @ program.A.mT
    prior = dist.Normal(0.0, 1.0).log_prob(values["key"]).sum(-1)
    prior = prior + dist.Normal(read, program.s).log_prob(values["latent"]).sum(-1)
    return torch.stack([guide, prior])


def test_a_mixture_of_many_parts_reports_bounds_of_no_other_number():
    program, episode = LinearProgram(widening=1.4), linear_episodes()
    proposal = Proposal(tuple(Part(1 / 7, program.guide) for _ in range(7)))
    score = linear_score(program, episode, proposal=proposal, particles=14)
    assert set(score.bounds) <= set(bound_steps(14))


# Numbers of particles and chunks


@pytest.mark.usefixtures("as_in_a_run")
@pytest.mark.parametrize("particles", [1, 13, 100])
@pytest.mark.parametrize("at_once", [1, 5, 64, 10**9])
def test_the_normaliser_is_the_number_of_weights_held(particles, at_once):
    program, episode = LinearProgram(), linear_episodes(1, 1)
    score = linear_score(program, episode, particles=particles, at_once=at_once)
    torch.testing.assert_close(score.log_likelihood, linear_truth(program, episode), rtol=0, atol=1e-9)
    assert score.effective_sample_size.item() == pytest.approx(particles)
    proposal = defensive_proposal(program.model, program.guide, episode, prior_share=0.1)
    draws = weighted_draws(program.model, proposal, episode, particles=particles, at_once=at_once)
    assert draws.log_weights.shape == (particles, 1, 1)
    assert draws.values["latent"].shape == (particles, 1, 1, 2)


@pytest.fixture
def numbered_noise(monkeypatch):
    """Makes the n-th draw of a distribution's noise the same, however many are drawn at once."""
    tables, position = {}, Counter()
    generator = torch.Generator()

    def draw(name):
        def noise(shape, dtype, device):
            key = (name, *shape[1:])
            if key not in tables:
                tables[key] = torch.randn(500, *shape[1:], dtype=dtype, generator=generator.manual_seed(len(tables)))
            start = position[key]
            position[key] += shape[0]
            return tables[key][start : start + shape[0]]

        return noise

    for module in (torch.distributions.normal, torch.distributions.multivariate_normal):
        monkeypatch.setattr(module, "_standard_normal", draw(module.__name__))
    return position.clear


@pytest.mark.parametrize(("particles", "random"), [(1, False), (7, True), (13, False), (100, False)])
def test_nothing_depends_on_how_many_particles_run_at_once(particles, random, numbered_noise):
    program, episode = LinearProgram(random=random, widening=1.4), linear_episodes(1, 2)
    proposal = defensive_proposal(program.model, program.guide, episode, prior_share=0.3)
    scores = []
    for at_once in (10**9, 1, 5, 64):  # of two images: all, 1, 2 and 32 particles
        numbered_noise()
        scores.append(linear_score(program, episode, proposal=proposal, particles=particles, at_once=at_once))
    for score in scores[1:]:
        torch.testing.assert_close(
            [vars(score)[name] for name in ("log_likelihood", "effective_sample_size", "pareto_k", "bounds")],
            [vars(scores[0])[name] for name in ("log_likelihood", "effective_sample_size", "pareto_k", "bounds")],
            equal_nan=True,
        )
        torch.testing.assert_close(score.elbo.elbo, scores[0].elbo.elbo)
        torch.testing.assert_close(score.elbo.kl, scores[0].elbo.kl)


@pytest.mark.parametrize("shares", [(1.0,), (0.99, 0.01), (0.49, 0.5, 0.01), (0.7, 0.06, 0.09, 0.15)])
def test_parts_share_all_particles(shares):
    proposal = Proposal(tuple(Part(share, lambda *_: None) for share in shares))
    for particles in (1, 2, 7, 13, 50, 99, 100, 101, 1000, 10_007):
        counts = proposal.counts(particles)
        assert sum(counts) == particles
        assert all(abs(count - share * particles) < len(shares) for count, share in zip(counts, shares, strict=True))
    assert proposal.counts(1000) == [round(1000 * share) for share in shares]


# What runs how often


@both_writes
@own_or_given
def test_images_are_encoded_and_written_once(write, given):
    program, episode = small_pair(write), random_episodes()
    memory = written_memory(program.guide, random_episodes(seed=9)) if given else None
    calls = Counter()
    for name in ("encoder", "write"):
        getattr(program.guide, name).register_forward_hook(lambda *_, name=name: calls.update([name]))
    proposal = defensive_proposal(program.model, program.guide, episode, memory, prior_share=0.1)
    score = importance_score(program.model, proposal, episode, memory, particles=50, at_once=2 * 18)  # two of 3 x 6
    assert list(score.bounds)[-1] == 50
    assert calls == ({"encoder": 1} if given else {"encoder": 1, "write": 1})


@both_writes
@own_or_given
def test_a_guide_that_runs_each_time_scores_the_same(write, given):
    program, episode = small_pair(write), random_episodes()
    memory = written_memory(program.guide, random_episodes(seed=9)) if given else None
    scores = []
    for guide in (program.guide, lambda *arguments: program.guide(*arguments)):  # the second cannot be amortized
        torch.manual_seed(6)
        proposal = defensive_proposal(program.model, guide, episode, memory, prior_share=0.2)
        scores.append(importance_score(program.model, proposal, episode, memory, particles=10, at_once=64))
    torch.testing.assert_close(scores[0].log_likelihood, scores[1].log_likelihood, rtol=1e-12, atol=1e-9)


@both_writes
def test_given_a_memory_an_images_score_does_not_depend_on_other_images(write):
    program, episode = small_pair(write), random_episodes()
    memory = written_memory(program.guide, random_episodes(seed=9))
    others = random_episodes(seed=12)
    others[1, 2] = episode[1, 2]
    scores = []
    for images in (episode, others):
        torch.manual_seed(6)  # and the same shapes, so that the noise is the same
        proposal = defensive_proposal(program.model, program.guide, images, memory, prior_share=0.2)
        scores.append(importance_score(program.model, proposal, images, memory, particles=20, at_once=100))
    for name in ("log_likelihood", "monte_carlo_error", "effective_sample_size"):
        first, second = (getattr(score, name) for score in scores)
        torch.testing.assert_close(first[1, 2], second[1, 2], rtol=1e-9, atol=1e-9)
        assert not torch.isclose(first[0, 0], second[0, 0], rtol=1e-6)


def test_scoring_leaves_no_gradients_and_needs_none():
    program, episode = small_pair(), random_episodes()
    proposal = defensive_proposal(program.model, program.guide, episode)
    score = importance_score(program.model, proposal, episode, particles=3)
    assert not score.log_likelihood.requires_grad
    assert not score.elbo.elbo.requires_grad


# The ELBO's terms


@pytest.mark.parametrize("random", [False, True], ids=["flat", "random"])
def test_elbo_terms_add_up_and_are_those_of_single_draws(random):
    program, episode = LinearProgram(random=random, widening=1.3, offset=0.1), linear_episodes(1, 3)
    score = linear_score(program, episode, particles=4000, at_once=BIG)
    single = elbo_terms(program.model, program.guide, episode.repeat(4000, 1, 1, 1, 1))
    torch.testing.assert_close(score.elbo.elbo, score.elbo.reconstruction - sum(score.elbo.kl.values()))
    assert set(score.elbo.kl) == set(single.kl) == {*(["memory"] if random else []), "key", "latent"}
    pairs = {"elbo": (score.elbo.elbo, single.elbo), "image": (score.elbo.reconstruction, single.reconstruction)}
    pairs |= {name: (score.elbo.kl[name], single.kl[name]) for name in single.kl}
    for many, draws in pairs.values():
        error = draws.std(0) * math.sqrt(2 / 4000)  # of both means
        assert ((many[0] - draws.mean(0)).abs() < 4 * error).all()


@both_writes
def test_the_elbo_is_that_of_the_guide_and_not_of_the_prior(write):
    program, episode = small_pair(write), random_episodes(1, 2)
    mixture = defensive_proposal(program.model, program.guide, episode, prior_share=0.5)
    score = importance_score(program.model, mixture, episode, particles=600)
    assert len(score.elbos) == 1
    single = elbo_terms(program.model, program.guide, episode.repeat(300, 1, 1, 1, 1)).elbo
    error = single.std(0) * math.sqrt(2 / 300)
    assert ((score.elbo.elbo[0] - single.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(score.elbo.elbo, score.elbo.reconstruction - sum(score.elbo.kl.values()))


def test_every_part_that_is_a_guide_has_an_elbo_of_its_own():
    episode = linear_episodes()
    near, far = LinearProgram(), LinearProgram(widening=1.5, offset=0.3)
    proposal = Proposal(
        (Part(0.4, far.guide), Part(0.2, far.guide, ("latent",)), Part(0.4, near.guide))  # two of them
    )
    score = linear_score(near, episode, proposal=proposal, particles=1000)
    first, second = score.elbos
    assert score.elbo is first
    torch.testing.assert_close(second.elbo, linear_truth(near, episode), rtol=0, atol=1e-9)
    assert (first.elbo < second.elbo - 0.1).all()


# Draws with weights


@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
@both_writes
def test_draws_carry_the_weights_of_the_score(write, given):
    program, episode, memory, _ = tiny_case(write, given)
    proposal = defensive_proposal(program.model, program.guide, episode, memory, prior_share=0.3)
    options = {"particles": 53, "at_once": 40}
    torch.manual_seed(2)
    score = importance_score(program.model, proposal, episode, memory, **options)
    torch.manual_seed(2)
    draws = weighted_draws(program.model, proposal, episode, memory, **options)
    assert draws.log_weights.shape == (53, 2, 3)
    expected = draws.log_weights.logsumexp(0) - math.log(53)
    torch.testing.assert_close(score.log_likelihood, expected, rtol=0, atol=1e-10)


def test_with_a_random_memory_draws_are_weighted_by_the_episode():
    program, episode = LinearProgram(random=True, widening=1.3), linear_episodes()
    torch.manual_seed(2)
    draws = weighted_draws(program.model, guide_alone(program.guide), episode, particles=31)
    torch.manual_seed(2)
    score = linear_score(program, episode, particles=31)
    assert draws.log_weights.shape == (31, 2)
    assert draws.values["memory"].shape == (31, 2, 1, 2)
    torch.testing.assert_close(score.log_likelihood, draws.log_weights.logsumexp(0) - math.log(31))


@both_writes
@own_or_given
def test_draws_have_the_densities_of_the_model_and_of_the_mixture(write, given):
    program, episode, memory, _ = tiny_case(write, given)
    model, guide = program.model, program.guide
    bound = amortized(guide, episode, memory)
    parts = (Part(0.5, bound), Part(0.3, bound, ("latent",)), Part(0.2, bound, ("key", "latent")))
    draws = weighted_draws(model, Proposal(parts), episode, memory, particles=40)
    key, latent = draws.values["key"], draws.values["latent"]
    encoding = guide.encode(episode)
    read = guide.write(encoding) if memory is None else memory
    q_key = guide.key_posterior(encoding, memory).log_prob(key)
    q_latent = guide.latent_posterior(encoding).log_prob(latent)
    p_key, p_latent = model.key_prior().log_prob(key), model.latent_prior(read, key).log_prob(latent)
    torch.testing.assert_close(draws.log_joint, p_key + p_latent + model.image_likelihood(latent).log_prob(episode))
    mixture = (0.5 * (q_key + q_latent).exp() + 0.3 * (q_key + p_latent).exp() + 0.2 * (p_key + p_latent).exp()).log()
    torch.testing.assert_close(draws.log_proposal, mixture)


@both_writes
def test_weights_never_exceed_the_likelihood_over_the_priors_share(write):
    program, episode, memory, _ = tiny_case(write, True, gain=6.0)
    proposal = defensive_proposal(program.model, program.guide, episode, memory, prior_share=0.01)
    draws = weighted_draws(program.model, proposal, episode, memory, particles=1000)
    image = program.model.image_likelihood(draws.values["latent"]).log_prob(episode)
    assert (draws.log_weights <= image + math.log(100) + 1e-9).all()


# Sites


def deterministic_model(program):
    def model(episode, memory=None):
        latent = program.model(episode, memory)
        pyro.deterministic("twice", 2 * latent, event_dim=1)

    return model


def deterministic_guide(program):
    def guide(episode, memory=None):
        program.guide(episode, memory)
        pyro.deterministic("pixels", episode.sum((-3, -2, -1)), event_dim=0)
        pyro.sample("twice", dist.Delta(episode.new_zeros(2), event_dim=1), infer={"_deterministic": True})

    return guide


def test_sites_that_follow_from_others_are_left_out():
    program, episode = LinearProgram(widening=1.3), linear_episodes()
    scores = []
    for model, guide in ((program.model, program.guide), (deterministic_model(program), deterministic_guide(program))):
        torch.manual_seed(2)
        scores.append(importance_score(model, guide_alone(guide), episode, particles=9, at_once=20))
        draws = weighted_draws(model, guide_alone(guide), episode, particles=2)
        assert set(draws.values) == set(scores[-1].elbo.kl) == {"key", "latent"}
    torch.testing.assert_close(scores[0].log_likelihood, scores[1].log_likelihood)
    torch.testing.assert_close(scores[0].elbo.elbo, scores[1].elbo.elbo)


def test_sites_that_follow_from_others_do_not_disturb_draws_of_the_prior():
    program, episode = LinearProgram(), linear_episodes()
    model = deterministic_model(program)

    def guide(episode, memory=None):
        program.guide(episode, memory)
        pyro.deterministic("pixels", episode.sum((-3, -2, -1)), event_dim=0)

    proposal = defensive_proposal(model, guide, episode, prior_share=0.5)
    assert proposal.parts[1].from_prior == ("key", "latent")
    score = importance_score(model, proposal, episode, particles=4000, at_once=BIG)
    assert_within_error(score, linear_truth(program, episode), 0.05)


@pytest.mark.parametrize("site", ["memory", "key", "latent"])
def test_a_point_in_place_of_a_density_is_refused(site):
    program, episode = LinearProgram(random=True), linear_episodes()

    def guide(episode, memory=None):
        def points(node):
            return dist.Delta(node["fn"].mean).to_event(1) if node["name"] == site else node["fn"]

        with _Replacing(points):
            program.guide(episode, memory)

    with pytest.raises(InputError, match=f"found a Delta at {site}: a point has no importance weights"):
        defensive_proposal(program.model, guide, episode)


class _Replacing(pyro.poutine.messenger.Messenger):
    """Replaces the distributions of sites."""

    def __init__(self, replace):
        super().__init__()
        self.replace = replace

    def _pyro_sample(self, msg):
        if not pyro.poutine.util.site_is_subsample(msg):
            msg["fn"] = self.replace(msg)


def test_a_point_where_the_prior_is_flat_is_as_it_should_be():
    program, episode = LinearProgram(), linear_episodes()
    assert defensive_proposal(program.model, program.guide, episode).parts[1].from_prior == ("key", "latent")


# What is refused


@pytest.mark.parametrize("particles", [0, -3])
def test_less_than_one_particle_is_refused(particles):
    program, episode = LinearProgram(), linear_episodes()
    for score in (importance_score, weighted_draws):
        with pytest.raises(InputError, match=f"particles: expected at least 1, found {particles}"):
            score(program.model, guide_alone(program.guide), episode, particles=particles)


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.6), (1.2, -0.2), (math.nan, 0.5), (0.0,)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(InputError, match="expected shares that add up to one, found"):
        Proposal(tuple(Part(share, lambda *_: None) for share in shares))


@pytest.mark.parametrize("prior_share", [-0.1, 1.5])
def test_a_share_of_the_prior_that_is_none_is_refused(prior_share):
    program, episode = LinearProgram(), linear_episodes()
    with pytest.raises(InputError, match="expected shares that add up to one"):
        defensive_proposal(program.model, program.guide, episode, prior_share=prior_share)
