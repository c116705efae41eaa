from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from inference.errors import DivergenceError
from inference.importance.estimator import Move, MoveNormals
from inference.metrics.elbo import mean_elbo
from inference.tracing import elbo_terms, seed_of
from tests.programs import WRITES, random_episodes, small_pair


@pytest.mark.parametrize("write", WRITES)
def test_terms_add_up_to_pyros_elbo_with_the_same_noise(write):
    program, episode = small_pair(write), random_episodes()
    torch.manual_seed(2)
    terms = elbo_terms(program.model, program.guide, episode)
    torch.manual_seed(2)
    loss = Trace_ELBO(max_plate_nesting=2)(program.model, program.guide)(episode)
    torch.testing.assert_close(terms.elbo.sum(), -loss.detach(), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(terms.elbo, terms.reconstruction - sum(terms.kl.values()))
    assert terms.elbo.shape == episode.shape[:2]
    assert "memory" not in terms.kl  # its prior is flat: a constant that is dropped


def test_averages_leave_out_the_filling():
    program, episode = small_pair(), random_episodes()
    counted = torch.ones(3, 6, dtype=torch.bool)
    counted[2, 2:] = False
    torch.manual_seed(seed_of(4, 0))
    terms = elbo_terms(program.model, program.guide, episode)
    results = mean_elbo(program.model, program.guide, [(episode, counted)], seed=4)
    assert results["elbo_nats_per_image"] == pytest.approx(terms.elbo[counted].mean().item())
    assert results["kl_key_nats_per_image"] == pytest.approx(terms.kl["key"][counted].mean().item())


def test_memory_gain_is_own_minus_another_episodes_elbo():
    program, episode = small_pair("feed_forward"), random_episodes()
    counted = torch.ones(3, 6, dtype=torch.bool)
    with torch.no_grad():
        memory = program.guide.write(program.guide.encode(episode))
        torch.manual_seed(seed_of(4, 0))
        own = elbo_terms(program.model, program.guide, episode)
        other = elbo_terms(program.model, program.guide, episode, memory.roll(1, 0))
        results = mean_elbo(program.model, program.guide, [(episode, counted)], seed=4)
    assert results["memory_gain_nats_per_image"] == pytest.approx((own.elbo - other.elbo).mean().item())


def test_memories_of_other_episodes_are_found_across_batches():
    program, episode = small_pair("feed_forward"), random_episodes()
    seen = []

    def guide(images, memory=None):
        seen.append(memory)
        return program.guide(images, memory)

    batches = [(episode[i : i + 1], torch.ones(1, 6, dtype=torch.bool)) for i in range(3)]
    results = mean_elbo(program.model, guide, batches)
    written = program.guide.write(program.guide.encode(episode))
    others = [memory for memory in seen if memory is not None]
    torch.testing.assert_close(torch.cat(others), written[:2])
    assert "memory_gain_nats_per_image" not in results  # the first episode had no other memory to compare with


def test_an_infinite_elbo_given_another_memory_is_no_divergence():
    """Seen with the Kanerva Machine on Omniglot: q(z | x, M, y) is far off where M is of another episode."""
    program, episode = small_pair(), random_episodes()
    far = Move(torch.tensor(1e200), torch.tensor(0.0))

    def guide(images, memory=None):
        with MoveNormals({} if memory is None else {"latent": far}):
            return program.guide(images, memory)

    batch = (episode, torch.ones(3, 6, dtype=torch.bool))
    expected = mean_elbo(program.model, program.guide, [batch], seed=4)
    with pyro.validation_enabled(False):
        results = mean_elbo(program.model, guide, [batch], seed=4)
        with pytest.raises(DivergenceError, match="not finite"), MoveNormals({"latent": far}):
            mean_elbo(program.model, program.guide, [batch], seed=4)
    assert expected.pop("memory_gain_nats_per_image") is not None
    assert results == expected


def test_a_single_episode_has_no_memory_gain():
    program, episode = small_pair(), random_episodes(1)
    results = mean_elbo(program.model, program.guide, [(episode, torch.ones(1, 6, dtype=torch.bool))])
    assert "memory_gain_nats_per_image" not in results


def test_an_evaluation_depends_on_its_seed_alone_and_leaves_the_random_state_as_it_was():
    program, batches = small_pair(), [(random_episodes(2), torch.ones(2, 6, dtype=torch.bool))] * 2
    first = mean_elbo(program.model, program.guide, batches, seed=4)
    before = torch.get_rng_state()
    assert mean_elbo(program.model, program.guide, batches, seed=4) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert mean_elbo(program.model, program.guide, batches, seed=5) != first
