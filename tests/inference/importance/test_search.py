"""Refined and searching proposals, against posteriors and likelihoods that are known."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from torch.distributions import MultivariateNormal, Normal

from inference.importance.estimator import (
    Move,
    MoveNormals,
    Part,
    Proposal,
    defensive_proposal,
    importance_score,
    weighted_draws,
    widened_proposal,
)
from inference.importance.search import laplace, prior_of, refine, refined_proposal, searching_proposal
from inference.tracing import amortized, base_distribution, trace_pair, written_memory
from kpp_pyro.distributions.block_key import BlockKey
from kpp_pyro.distributions.flow import FlowNormal
from kpp_pyro.errors import InputError
from tests.exact import (
    LAYOUT,
    TINY_SHAPE,
    LinearProgram,
    linear_episodes,
    log_evidence,
    tiny_episodes,
    tiny_memories,
    tiny_program,
)
from tests.programs import WRITES, random_episodes, small_pair

BIG = 2**14
both_writes = pytest.mark.parametrize("write", WRITES)
own_or_given = pytest.mark.parametrize("given", [False, True], ids=["own", "given"])


class FactorisedProgram:
    """y ~ N(0, 1), z ~ N(M, 0.8^2), x ~ N((2 y, z), 0.5^2): the posterior of every scalar is normal by itself."""

    start = ((0.4, 0.5), (-0.3, 0.6))  # mean and deviation of the guide's key and latent

    @staticmethod
    def model(episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            flat = dist.ImproperUniform(dist.constraints.real, (), (2,))
            memory = pyro.sample("memory", flat, obs=memory)
            with pyro.plate("images", episode.shape[1], dim=-1):
                key = pyro.sample("key", dist.Normal(episode.new_zeros(2), 1.0).to_event(1))
                latent = pyro.sample("latent", dist.Normal(memory, 0.8).to_event(1))
                pixels = torch.cat(torch.broadcast_tensors(2 * key, latent), -1)
                pyro.sample("image", dist.Normal(pixels.unflatten(-1, TINY_SHAPE), 0.5).to_event(3), obs=episode)

    @classmethod
    def guide(cls, episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            if memory is None:
                pyro.sample("memory", dist.Delta(episode.flatten(2)[..., 2:].mean(1, keepdim=True)).to_event(1))
            with pyro.plate("images", episode.shape[1], dim=-1):
                for site, (loc, scale) in zip(("key", "latent"), cls.start, strict=True):
                    pyro.sample(site, dist.Normal(episode.new_full((2,), loc), scale).to_event(1))

    @staticmethod
    def posterior(episode, memory):
        """Mean (B, T, 2) and deviation of y and z."""
        pixels = episode.flatten(2)
        return {
            "key": (8 * pixels[..., :2] / 17, 17**-0.5),
            "latent": ((memory / 0.64 + 4 * pixels[..., 2:]) / (1 / 0.64 + 4), (1 / 0.64 + 4) ** -0.5),
        }

    @staticmethod
    def log_evidence(episode, memory):
        pixels = episode.flatten(2)
        key, latent = Normal(0.0, 4.25**0.5), Normal(memory, 0.89**0.5)
        return (key.log_prob(pixels[..., :2]) + latent.log_prob(pixels[..., 2:])).sum(-1)


class TwofoldProgram:
    """y ~ N(0, I), z ~ N(tanh(2 y_1) M, 0.4^2), x ~ N(z, 0.2^2): half of the keys read M, half -M.

    The guide takes every image for what the other half of the keys read.
    """

    @staticmethod
    def model(episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            flat = dist.ImproperUniform(dist.constraints.real, (), (4,))
            memory = pyro.sample("memory", flat, obs=memory)
            with pyro.plate("images", episode.shape[1], dim=-1):
                key = pyro.sample("key", dist.Normal(episode.new_zeros(2), 1.0).to_event(1))
                latent = pyro.sample("latent", dist.Normal((2 * key[..., :1]).tanh() * memory, 0.4).to_event(1))
                pyro.sample("image", dist.Normal(latent.unflatten(-1, TINY_SHAPE), 0.2).to_event(3), obs=episode)

    @staticmethod
    def guide(episode, memory=None):
        pixels = episode.flatten(2)
        wrong = -(pixels * memory).sum(-1, keepdim=True).sign() * pixels.new_tensor([1.0, 0.0])
        with pyro.plate("episodes", episode.shape[0], dim=-2), pyro.plate("images", episode.shape[1], dim=-1):
            pyro.sample("key", dist.Normal(wrong, 0.3).to_event(1))
            pyro.sample("latent", dist.Normal(-pixels, 0.2).to_event(1))

    @staticmethod
    def log_evidence(episode, memory):
        key = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        read = Normal((2 * key).tanh().view(-1, 1, 1, 1) * memory, 0.2**0.5)
        joint = read.log_prob(episode.flatten(2)).sum(-1) + Normal(0.0, 1.0).log_prob(key).view(-1, 1, 1)
        return joint.logsumexp(0) + math.log(16 / 4000)


def twofold_case():
    """Images close to M and to -M."""
    memory = torch.tensor([[2.0, -1.0, 1.6, 2.4], [0.6, 1.8, -2.2, 1.2]], dtype=torch.float64).unsqueeze(1)
    share = torch.tensor([1.0, -1.0], dtype=torch.float64).unsqueeze(-1)
    episode = (share * memory + 0.1 * torch.randn(2, 2, 4, dtype=torch.float64)).unflatten(-1, TINY_SHAPE)
    return TwofoldProgram, episode, memory


def resting(guide, episode, memory=None, sites=("key", "latent")):
    """Moves that leave the normals of a guide where they are."""
    nodes = poutine.trace(guide).get_trace(episode, memory).nodes
    return {name: Move(*[torch.zeros_like(nodes[name]["fn"].mean)] * 2) for name in sites}


def refined_guide(model, guide, start, episode, memory=None, **options):
    """A guide, its normals moved to where their refinement ends."""
    return MoveNormals(refine(model, guide, start, episode, memory, **options))(guide)


def normals_of(program, episode, memory=None, sites=("key", "latent")):
    """Mean and deviation of the normals that a program draws."""
    nodes = poutine.trace(program).get_trace(episode, memory).nodes
    return {name: (nodes[name]["fn"].mean, nodes[name]["fn"].stddev) for name in sites}


def assert_within_error(score, truth, largest):
    assert score.monte_carlo_error.max() < largest
    assert ((score.log_likelihood - truth).abs() < 4 * score.monte_carlo_error).all()


# Moves


def test_a_move_shifts_by_deviations_and_scales_by_its_exponential():
    def program():
        with pyro.plate("episodes", 2, dim=-2), pyro.plate("images", 3, dim=-1):
            pyro.sample("moved", dist.Normal(loc, scale).to_event(2))
            pyro.sample("other", dist.Normal(loc, scale).to_event(2))

    loc, scale = torch.randn(4, 5), torch.rand(4, 5) + 0.1
    move = Move(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5))
    nodes = poutine.trace(MoveNormals({"moved": move})(program)).get_trace().nodes
    moved, other = nodes["moved"]["fn"], nodes["other"]["fn"]
    torch.testing.assert_close(moved.mean, loc + scale * move.shift)
    torch.testing.assert_close(moved.stddev, scale * move.log_scale.exp())
    assert (moved.batch_shape, moved.event_shape) == ((2, 3), (4, 5)) == (other.batch_shape, other.event_shape)
    torch.testing.assert_close(other.mean, loc.expand(2, 3, 4, 5))
    torch.testing.assert_close(other.stddev, scale.expand(2, 3, 4, 5))


def test_what_comes_after_a_moved_site_moves_with_it():
    program, episode, memory = twofold_case()
    moves = resting(program.model, episode, memory)
    far = Move(torch.full((2, 2, 2), 20.0, dtype=torch.float64), torch.full((2, 2, 2), -20.0, dtype=torch.float64))
    moved = normals_of(MoveNormals(moves | {"key": far})(program.model), episode, memory)
    torch.testing.assert_close(moved["latent"][0], memory.expand(2, 2, 4), rtol=0, atol=1e-5)  # of tanh(40) M


def test_no_steps_leave_normals_where_they_start():
    episode = linear_episodes()
    start = {"key": Move(torch.randn(2, 3, 2).double(), torch.randn(2, 3, 2).double())}
    program = FactorisedProgram
    moved = normals_of(refined_guide(program.model, program.guide, start, episode, steps=0, learning_rate=0.1), episode)
    (key_loc, key_scale), (latent_loc, latent_scale) = program.start
    torch.testing.assert_close(moved["key"][0], key_loc + key_scale * start["key"].shift)
    torch.testing.assert_close(moved["key"][1], key_scale * start["key"].log_scale.exp())
    assert (moved["latent"][0] == latent_loc).all()
    assert (moved["latent"][1] == latent_scale).all()


# Refinement


def test_a_program_of_the_prior_draws_the_same_and_ends_before_the_decoder():
    program, episode, memory = twofold_case()
    torch.manual_seed(3)
    whole = poutine.trace(program.model).get_trace(episode, memory)
    torch.manual_seed(3)
    drawn = poutine.trace(prior_of(program.model, ["key", "latent"])).get_trace(episode, memory)
    assert drawn.stochastic_nodes == ["key", "latent"] and "image" not in drawn and "memory" not in drawn
    for site in ("key", "latent"):
        assert torch.equal(drawn.nodes[site]["value"], whole.nodes[site]["value"])
    small, images = small_pair(), random_episodes()
    small.model.decoder = None  # would fail if it were called
    read = prior_of(small.model, ["latent", "key"])
    assert poutine.trace(read).get_trace(images, written_memory(small.guide, images)).nodes["latent"]["value"].any()
    assert not runtime._PYRO_STACK  # no handler is left behind


@pytest.mark.parametrize("flow", [False, True])
def test_moving_the_priors_inside_one_run_of_the_model_equals_moving_a_guide_that_is_the_prior(flow):
    program, episode, memory = twofold_case()
    model, found = AsFlow()(program.model) if flow else program.model, []
    start = resting(program.model, episode, memory)
    for guide in (None, prior_of(model, list(start)), poutine.block(model, expose=list(start))):
        torch.manual_seed(4)
        found.append(refine(model, guide, start, episode, memory, steps=20, learning_rate=0.1))
    for site, move in found[0].items():
        assert (move.shift.abs() > 0.1).any()
        for other in found[1:]:
            torch.testing.assert_close(other[site].shift, move.shift, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(other[site].log_scale, move.log_scale, rtol=1e-9, atol=1e-9)


def refined_score(episode, memory, steps):
    """The refined guide of a factorised program, its score, and the memory that is read."""
    program = FactorisedProgram
    start = resting(program.guide, episode, memory)
    refined = refined_guide(program.model, program.guide, start, episode, memory, steps=steps, learning_rate=0.05)
    score = importance_score(program.model, Proposal((Part(1.0, refined),)), episode, memory, particles=2000)
    return refined, score, written_memory(program.guide, episode) if memory is None else memory


@pytest.mark.usefixtures("as_in_a_run")
@own_or_given
def test_refinement_recovers_a_normal_posterior(given):
    program, episode = FactorisedProgram, 0.3 * linear_episodes()
    memory = 0.3 * torch.randn(2, 1, 2, dtype=torch.float64) if given else None
    refined, score, read = refined_score(episode, memory, steps=400)
    found = normals_of(refined, episode, memory)
    for name, (mean, deviation) in program.posterior(episode, read).items():
        assert ((found[name][0] - mean).abs() < 0.5 * deviation).all()
        torch.testing.assert_close(found[name][1], torch.full_like(mean, deviation), rtol=0.4, atol=0)
    truth = program.log_evidence(episode, read)
    assert (truth - score.elbo.elbo).mean() < 0.05
    assert ((truth - score.elbo.elbo).abs() < 0.2).all()
    assert_within_error(score, truth, 1e-2)


@pytest.mark.usefixtures("as_in_a_run")
def test_at_an_exact_posterior_the_noise_of_refinement_costs_little():
    episode = 0.3 * linear_episodes()
    _, score, read = refined_score(episode, None, steps=600)
    truth = FactorisedProgram.log_evidence(episode, read)
    torch.testing.assert_close(score.elbo.elbo, truth, rtol=0, atol=5e-2)


def test_refinement_of_one_site_leaves_the_others_as_they_are():
    program, episode = FactorisedProgram, linear_episodes()
    memory = torch.randn(2, 1, 2, dtype=torch.float64)
    start = resting(program.guide, episode, memory, sites=["latent"])
    refined = refined_guide(program.model, program.guide, start, episode, memory, steps=50, learning_rate=0.05)
    before, after = (normals_of(guide, episode, memory) for guide in (program.guide, refined))
    assert torch.equal(before["key"][0], after["key"][0])
    assert torch.equal(before["key"][1], after["key"][1])
    assert not torch.isclose(before["latent"][0], after["latent"][0]).any()


@both_writes
def test_what_is_found_for_an_image_does_not_depend_on_other_images(write):
    program, episode = small_pair(write), random_episodes()
    memory = written_memory(program.guide, random_episodes(seed=9))
    others = random_episodes(seed=12)
    others[1, 2] = episode[1, 2]
    found = []
    for images in (episode, others):
        with torch.no_grad():
            bound = amortized(program.guide, images, memory)
        start = resting(bound, images, memory, sites=["latent"])
        torch.manual_seed(6)  # and the same shapes, so that the noise is the same
        refined = refined_guide(program.model, bound, start, images, memory, steps=10, learning_rate=0.1)
        found.append(normals_of(refined, images, memory, sites=["latent"])["latent"])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first[1, 2], second[1, 2], rtol=1e-9, atol=1e-9)
        assert not torch.isclose(first[0, 0], second[0, 0], rtol=1e-6).all()


@both_writes
@own_or_given
def test_model_and_guide_stay_as_they_are(write, given):
    program, episode = small_pair(write), random_episodes()
    memory = written_memory(program.guide, random_episodes(seed=9)) if given else None
    parameters = [*program.model.parameters(), *program.guide.parameters()]
    before = [parameter.clone() for parameter in parameters]
    with torch.no_grad():
        bound = amortized(program.guide, episode, memory)
    sites = ["latent"] if write == "allocate" else ["key", "latent"]
    refined = refined_guide(
        program.model, bound, resting(bound, episode, memory, sites), episode, memory, steps=3, learning_rate=0.1
    )
    refined_proposal(program.model, program.guide, episode, memory, steps=3)
    if given:
        searching_proposal(program.model, program.guide, episode, memory, pilots=20, steps=3)
    assert all(torch.equal(*pair) for pair in zip(parameters, before, strict=True))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in parameters)
    mean, deviation = normals_of(refined, episode, memory, ["latent"])["latent"]
    assert not mean.requires_grad
    assert not deviation.requires_grad


def test_a_guide_that_runs_each_time_is_refined_too():
    program, episode = small_pair("feed_forward"), random_episodes()
    memory = written_memory(program.guide, random_episodes(seed=9))

    def guide(episode, memory=None):  # cannot be amortized: it is run within the graph of every step
        program.guide(episode, memory)

    proposal = refined_proposal(program.model, guide, episode, memory, steps=30)
    score = importance_score(program.model, proposal, episode, memory, particles=100)
    assert score.elbos[1].elbo.mean() > score.elbos[0].elbo.mean()


def test_a_guide_without_normals_is_its_own_refinement():
    program, episode = LinearProgram(widening=1.3), linear_episodes()
    proposal = refined_proposal(program.model, program.guide, episode, steps=3)
    score = importance_score(program.model, proposal, episode, particles=4000, at_once=BIG)
    assert_within_error(score, program.log_evidence(episode, written_memory(program.guide, episode)), 0.05)


# The refined proposal


@pytest.mark.usefixtures("as_in_a_run")
@own_or_given
def test_a_refined_proposal_splits_the_inference_gap(given):
    program, episode = FactorisedProgram, 0.3 * linear_episodes()
    memory = 0.3 * torch.randn(2, 1, 2, dtype=torch.float64) if given else None
    read = memory if given else written_memory(program.guide, episode)
    truth = program.log_evidence(episode, read)
    proposal = refined_proposal(program.model, program.guide, episode, memory, steps=700)
    score = importance_score(program.model, proposal, episode, memory, particles=4000, at_once=BIG)
    assert_within_error(score, truth, 0.05)
    amortised, refined = score.elbos
    gap, variance = torch.zeros_like(truth), torch.zeros_like(truth)
    for (loc, scale), (mean, deviation) in zip(program.start, program.posterior(episode, read).values(), strict=True):
        ratio, distance = (scale / deviation) ** 2, (loc - mean) / deviation
        gap += ((ratio - 1 - math.log(ratio) + distance.square()) / 2).sum(-1)  # KL of two normals
        variance += ((ratio - 1) ** 2 / 2 + ratio * distance.square()).sum(-1)  # of ln q - ln p
    error = (variance / (0.49 * 4000)).sqrt()
    assert ((truth - amortised.elbo - gap).abs() < 4 * error).all()
    assert ((truth - refined.elbo).abs() < 0.1).all()


@own_or_given
def test_allocated_keys_stay_as_they_are(given):
    program, episode = small_pair("allocate"), random_episodes()
    memory = written_memory(program.guide, random_episodes(seed=9)) if given else None
    proposal = refined_proposal(program.model, program.guide, episode, memory, steps=30)
    with torch.no_grad():
        before, after = (poutine.trace(part.guide).get_trace(episode, memory).nodes for part in proposal.parts[:2])
    key = after["key"]["fn"]
    assert isinstance(base_distribution(key), BlockKey)
    assert torch.equal(key.block_probs, before["key"]["fn"].block_probs)
    assert key.prior_prob == before["key"]["fn"].prior_prob
    assert not torch.isclose(after["latent"]["fn"].mean, before["latent"]["fn"].mean).any()


@pytest.mark.parametrize("parts", [{"write": "allocate"}, {"model": "kanerva_machine"}], ids=str)
def test_refinement_raises_the_elbo_of_every_image(parts):  # normal keys at sharp edges have noisy gradients
    program, episode = small_pair(**parts), random_episodes(1, 4)
    memory = written_memory(program.guide, episode)
    proposal = refined_proposal(program.model, program.guide, episode, memory, steps=60)
    assert [part.from_prior for part in proposal.parts] == [(), (), ("key", "latent")]
    score = importance_score(program.model, proposal, episode, memory, particles=300)
    amortised, refined = score.elbos
    assert (refined.elbo > amortised.elbo).all()


@pytest.mark.usefixtures("as_in_a_run")
@both_writes
def test_a_refined_proposal_agrees_with_quadrature(write):
    program, episode, memory = tiny_program(write, gain=1.0), tiny_episodes(), tiny_memories()
    truth = log_evidence(program.model, memory, episode)
    proposal = refined_proposal(program.model, program.guide, episode, memory, steps=40)
    score = importance_score(program.model, proposal, episode, memory, particles=20_000, at_once=BIG)
    assert ((score.log_likelihood - truth).abs() < 4 * score.monte_carlo_error + 5e-3).all()
    assert score.monte_carlo_error.mean() < 0.1


# The search


def hopeless_case(write):
    """A memory of which one block holds what explains an image, and a guide that looks elsewhere for another."""
    program = tiny_program(write, gain=6.0)
    memory = torch.full((1, 1, *LAYOUT.shape), -1.5, dtype=torch.float64)
    memory[..., 0, 2] = 1.5
    white = (program.model.image_likelihood(torch.full((1, 3, 1), 1.5, dtype=torch.float64)).mean > 0.5).double()
    episode = white.clone()
    episode[0, 1, 0, 0, 0] = 0  # a pixel wrong
    episode[0, 2] = 1 - white[0, 2]  # this one is where the guide looks

    def guide(episode, memory=None):
        with pyro.plate("episodes", 1, dim=-2), pyro.plate("images", 3, dim=-1):
            pyro.sample("key", dist.Normal(episode.new_tensor([[0.0, -1.5, 1.5]]), 0.3).to_event(2))
            pyro.sample("latent", dist.Normal(episode.new_tensor([-1.5]), 0.3).to_event(1))

    return program.model, guide, episode, memory


@pytest.mark.usefixtures("as_in_a_run")
@both_writes
def test_a_search_finds_the_block_that_a_guide_has_missed(write):
    model, guide, episode, memory = hopeless_case(write)
    truth = log_evidence(model, memory, episode)
    proposal = searching_proposal(model, guide, episode, memory, pilots=200, starts=2, steps=70)
    score = importance_score(model, proposal, episode, memory, particles=10_000, at_once=BIG)
    alone = importance_score(model, Proposal((Part(1.0, guide),)), episode, memory, particles=1000)
    assert (truth[:, :2] - alone.log_likelihood[:, :2] > 5).all()
    assert ((score.log_likelihood - truth).abs() < 4 * score.monte_carlo_error + 5e-3).all()
    assert score.monte_carlo_error.max() < 0.25
    assert (score.elbo.elbo[:, 0] - alone.elbo.elbo[:, 0] > 10).all()  # of the refinement, and of the guide


def test_a_search_finds_the_mode_that_a_guide_has_missed():
    program, episode, memory = twofold_case()
    truth = program.log_evidence(episode, memory)
    proposal = searching_proposal(program.model, program.guide, episode, memory, starts=2, steps=80)
    score = importance_score(program.model, proposal, episode, memory, particles=20_000, at_once=BIG)
    alone = importance_score(program.model, Proposal((Part(1.0, program.guide),)), episode, memory, particles=1000)
    assert (truth - alone.log_likelihood > 20).all()
    assert_within_error(score, truth, 0.15)
    assert (score.elbo.elbo - alone.elbo.elbo > 20).all()  # of the refinement, and of the guide
    assert (score.effective_sample_size > 10 * alone.effective_sample_size).all()


class AsFlow(Messenger):
    """Gives a normal prior of keys as a flow without layers, which is the same and knows no moments."""

    def _pyro_sample(self, msg):
        if msg["name"] == "key":
            msg["fn"] = FlowNormal(msg["fn"].mean, msg["fn"].stddev, [], msg["fn"].event_dim)


@pytest.mark.usefixtures("as_in_a_run")
def test_a_search_over_keys_needs_no_moments_of_their_prior():
    program, episode, memory = twofold_case()
    model, truth = AsFlow()(program.model), program.log_evidence(episode, memory)
    proposal = searching_proposal(model, program.guide, episode, memory, starts=2, steps=80)
    score = importance_score(model, proposal, episode, memory, particles=20_000, at_once=BIG)
    assert_within_error(score, truth, 0.15)
    assert score.elbo.elbo.mean() > truth.mean() - 10  # of the refinement, from what the guide has missed


def test_a_search_without_moments_starts_where_it_found_a_key_and_as_wide():
    program, episode, memory = twofold_case()
    proposals = []
    for model in (program.model, AsFlow()(program.model)):
        torch.manual_seed(2)
        proposals.append(searching_proposal(model, program.guide, episode, memory, pilots=100, starts=1, steps=0))
    known, estimated = (normals_of(proposal.parts[0].guide, episode, memory)["key"] for proposal in proposals)
    torch.testing.assert_close(estimated[0], known[0])
    torch.testing.assert_close(estimated[1], known[1], rtol=0.25, atol=0)  # 256 draws, and 8 deviations


@both_writes
def test_a_search_keeps_weights_below_the_likelihood_over_the_priors_share(write):
    model, guide, episode, memory = hopeless_case(write)
    proposal = searching_proposal(model, guide, episode, memory, pilots=20, steps=5)
    shares = {part.from_prior: part.share for part in proposal.parts}
    assert math.fsum(part.share for part in proposal.parts) == pytest.approx(1)
    draws = weighted_draws(model, proposal, episode, memory, particles=1000)
    image = model.image_likelihood(draws.values["latent"]).log_prob(episode)
    assert (draws.log_weights <= image - math.log(shares["key", "latent"]) + 1e-9).all()
    assert draws.log_weights.max() <= -math.log(0.15) + 1e-9  # a probability of pixels is at most one


def test_a_search_starts_from_the_pilot_of_greatest_weight_and_keeps_close():
    program, episode, memory = twofold_case()
    torch.manual_seed(2)
    proposal = searching_proposal(program.model, program.guide, episode, memory, pilots=100, starts=1, steps=0)
    bound, pilots = proposal.parts[1].guide, tuple(part for part in proposal.parts[1:])
    torch.manual_seed(2)
    trace_pair(program.model, bound, episode, memory)  # the search looks at the sites first
    parts = tuple(Part(part.share / 0.3, part.guide, part.from_prior) for part in pilots)
    draws = weighted_draws(program.model, Proposal(parts), episode, memory, particles=100)
    best = draws.log_weights.argmax(0)
    found = normals_of(proposal.parts[0].guide, episode, memory)
    for b in range(2):
        for t in range(2):
            key = draws.values["key"][best[b, t], b, t]
            torch.testing.assert_close(found["key"][0][b, t], key)
    assert (found["key"][1] < 0.1).all()


@pytest.mark.usefixtures("as_in_a_run")
@both_writes
def test_what_a_search_finds_for_an_image_does_not_depend_on_other_images(write):
    program, episode = small_pair(write), random_episodes()
    memory = written_memory(program.guide, random_episodes(seed=9))
    others = random_episodes(seed=12)
    others[1, 2] = episode[1, 2]
    scores = []
    for images in (episode, others):
        torch.manual_seed(6)
        proposal = searching_proposal(program.model, program.guide, images, memory, pilots=30, steps=5)
        scores.append(importance_score(program.model, proposal, images, memory, particles=30).log_likelihood)
    torch.testing.assert_close(scores[0][1, 2], scores[1][1, 2], rtol=1e-9, atol=1e-9)
    assert not torch.isclose(scores[0][0, 0], scores[1][0, 0], rtol=1e-6)


def test_a_point_in_place_of_a_density_is_refused():
    program, episode, memory = twofold_case()

    def guide(episode, memory=None):
        with pyro.plate("episodes", 2, dim=-2), pyro.plate("images", 2, dim=-1):
            pyro.sample("key", dist.Normal(episode.new_zeros(2), 1.0).to_event(1))
            pyro.sample("latent", dist.Delta(episode.flatten(2)).to_event(1))

    for make in (refined_proposal, searching_proposal):
        with pytest.raises(InputError, match="found a Delta at latent:"):
            make(program.model, guide, episode, memory)


# Normal keys, widened


def tiny_written(write):
    """A tiny program, episodes, and ln p(x | M) given the memories that they write, by quadrature."""
    program, episode = tiny_program(write), tiny_episodes()
    return program, episode, log_evidence(program.model, written_memory(program.guide, episode), episode)


@both_writes
def test_scores_by_widened_keys_agree_with_quadrature(write):
    program, episode, truth = tiny_written(write)
    proposal = widened_proposal(program.model, program.guide, episode)
    score = importance_score(program.model, proposal, episode, particles=20_000, at_once=200_000)
    assert ((score.log_likelihood - truth).abs() < 4 * score.monte_carlo_error + 1e-6).all()


def test_wide_keys_mend_the_weights_of_narrow_ones_where_reads_are_flat():
    program, episode, _ = tiny_written("feed_forward")
    write, linear = program.guide.write, program.guide.write.to_key_scale.network
    write.key_shift.data.zero_()
    linear.weight.data.zero_()
    linear.bias.data.fill_(40.0)  # as wide as they become: a tenth of a block
    proposals = defensive_proposal, widened_proposal
    narrow, wide = (make(program.model, program.guide, episode) for make in proposals)
    scores = [importance_score(program.model, made, episode, particles=20_000) for made in (narrow, wide)]
    before, after = (score.pareto_k.mean() for score in scores)
    assert after < before - 0.3
    assert (scores[1].effective_sample_size > 1.2 * scores[0].effective_sample_size).all()


def test_only_small_normal_keys_are_widened():
    episode = random_episodes()
    plain, wide = (small_pair(write) for write in ("allocate", "feed_forward"))
    many = small_pair("feed_forward", reads=5, episode_length=3)
    for program, parts in ((plain, 2), (many, 2), (wide, 3)):
        assert len(widened_proposal(program.model, program.guide, episode).parts) == parts
    part = widened_proposal(wide.model, wide.guide, episode).parts[1]
    before = trace_pair(wide.model, wide.guide, episode).guide.nodes
    after = trace_pair(wide.model, part.guide, episode).guide.nodes
    torch.testing.assert_close(after["key"]["fn"].mean, before["key"]["fn"].mean)
    torch.testing.assert_close(after["key"]["fn"].stddev, 3 * before["key"]["fn"].stddev)
    torch.testing.assert_close(after["latent"]["fn"].stddev, before["latent"]["fn"].stddev)


def test_laplace_is_the_posterior_itself_where_that_is_normal():
    episode = linear_episodes(2, 3)
    design = torch.randn(4, 3, dtype=torch.float64)
    noise = 0.6

    def model(episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2), pyro.plate("images", episode.shape[1], dim=-1):
            latent = pyro.sample("latent", dist.Normal(episode.new_zeros(3), 1.0).to_event(1))
            image = (latent @ design.mT).unflatten(-1, episode.shape[2:])
            pyro.sample("image", dist.Normal(image, noise).to_event(3), obs=episode)

    def guide(episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2), pyro.plate("images", episode.shape[1], dim=-1):
            pyro.sample("latent", dist.Normal(episode.new_full((3,), 0.3), 0.5).to_event(1))

    found = laplace(model, guide, "latent", episode)
    covariance = (torch.eye(3, dtype=torch.float64) + design.mT @ design / noise**2).inverse()
    torch.testing.assert_close(found.covariance_matrix, covariance.expand(2, 3, 3, 3), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.mean, episode.flatten(2) @ design @ covariance / noise**2, rtol=0, atol=5e-3)
    proposal = refined_proposal(model, guide, episode, steps=20)
    assert [part.share for part in proposal.parts] == [0.25, 0.24, 0.5, 0.01]
    score = importance_score(model, proposal, episode, particles=4000)
    exact = MultivariateNormal(torch.zeros(4).double(), design @ design.mT + noise**2 * torch.eye(4).double())
    torch.testing.assert_close(score.log_likelihood, exact.log_prob(episode.flatten(2)), rtol=0, atol=0.02)
