"""Whole programs whose latents are signs: the prior finds exactly the posterior's, and contents stay signs."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine
from torch.distributions import kl_divergence

from inference.objectives import make_objective
from inference.runs.trainer import ScaleSites
from inference.tracing import terms_of, trace_pair, written_memory
from kpp_pyro.writes.content_steps import SignSearch
from tests.programs import random_episodes, small_pair

BLOCK_WRITES = ("allocate", "allocate_by_content", "feed_forward")
every_write = pytest.mark.parametrize("write", BLOCK_WRITES)
pointing_writes = pytest.mark.parametrize("write", ["allocate", "allocate_by_content"])


def signs_program(write, **changes):
    return small_pair(write, signs_per_scalar=4, episode_length=6, **changes)


def latents(program, episode):
    """The posterior and the prior of the latents, at keys of the posterior."""
    pair = trace_pair(program.model, program.guide, episode)
    return pair.guide.nodes["latent"]["fn"], pair.model.nodes["latent"]["fn"]


@pointing_writes
def test_the_prior_of_what_is_read_is_located_at_the_posterior_s_signs(write):
    program, episode = signs_program(write), random_episodes()
    posterior, prior = latents(program, episode)
    assert posterior.event_shape == (program.guide.write.latent_size,) == (32,)
    torch.testing.assert_close(posterior.mean, posterior.mean.sign(), atol=1e-12, rtol=0)
    assert torch.equal(prior.mean, posterior.mean.sign())
    torch.testing.assert_close(
        kl_divergence(posterior, prior),
        kl_divergence(*(torch.distributions.Normal(0.0, q.stddev) for q in (posterior, prior))).sum(-1),
    )


@every_write
def test_at_an_images_own_key_the_same_scales_leave_no_kl(write):
    program, episode = signs_program(write), random_episodes()
    encoding, guide = program.guide.encode(episode), program.guide
    prior = program.model.latent_prior(guide.write(encoding), guide.key_posterior(encoding).mode)
    posterior = guide.latent_posterior(encoding)
    log_ratio = (prior.stddev / posterior.stddev).log()
    expected = (log_ratio + (posterior.stddev / prior.stddev).square() / 2 - 0.5).sum(-1)
    torch.testing.assert_close(kl_divergence(posterior, prior), expected)
    with torch.no_grad():
        raw_scale = program.model.state_dict()["reading.network.raw_scale"]
        head = [p for name, p in guide.write.to_content.named_parameters() if name.endswith(("weight", "bias"))]
        for parameter in head:
            parameter[program.guide.write.latent_size :] = 0.0
        raw_scale.zero_()
        posterior = guide.latent_posterior(guide.encode(episode))
        prior = program.model.latent_prior(guide.write(encoding), guide.key_posterior(encoding).mode)
    torch.testing.assert_close(kl_divergence(posterior, prior), torch.zeros(3, 6).double(), atol=1e-9, rtol=0)


@pointing_writes
def test_signs_learn_nothing_from_the_kl_and_all_from_the_reconstruction(write):
    program, episode = signs_program(write, objective="mean_field"), random_episodes()
    encode, encodings = program.guide.amortized_encoding, []

    def remembering(images):
        encodings.append(encode(images))
        encodings[-1].latent_loc.retain_grad()
        return encodings[-1]

    program.guide.amortized_encoding = remembering
    gradients = []
    for weight in (0.0, 1.0):
        torch.manual_seed(5)
        with ScaleSites({"latent": weight}):
            make_objective("mean_field")(program.model, program.guide)(episode).backward()
        gradients.append(encodings[-1].latent_loc.grad)
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-10, rtol=0)
    scales = program.model.reading.get_parameter("network.raw_scale").grad
    assert scales.abs().min() > 1e-6


@every_write
def test_cues_are_read_by_their_signs(write):
    program, episode = signs_program(write), random_episodes()
    memory = written_memory(program.guide, episode)
    order = torch.randperm(6)
    trace = poutine.trace(program.guide).get_trace(episode[:, order], memory)
    encoding = program.guide.encode(episode)
    key = program.guide.key_posterior(program.guide.encode(episode[:, order]), memory).mode
    assert "memory" not in trace.nodes
    assert torch.equal(program.model.latent_prior(memory, key).mean, encoding.latent_loc.sign()[:, order])


@every_write
def test_contents_of_signs_are_refined_by_turning_signs_over(write):
    program, episode = signs_program(write, content_steps=20), random_episodes()
    (refine,) = program.guide.preparations
    assert isinstance(refine, SignSearch)
    amortized = program.guide.encode(episode).latent_loc
    program.train(False)
    with torch.no_grad():
        encoding = program.guide.encode(episode)
        refined = encoding.latent_loc
        before, after = (program.model.image_likelihood(z).log_prob(episode) for z in (amortized, refined))
        memory = written_memory(program.guide, episode)
    torch.testing.assert_close(refined, refined.sign(), atol=1e-12, rtol=0)
    assert (refined.sign() != amortized.sign()).any(-1).all()
    assert (after > before).all()
    if write == "allocate_by_content":  # blocks stay those of the encoding
        assert torch.equal(encoding.blocks, program.guide.amortized_encoding(episode).blocks)
    key = program.guide.key_posterior(encoding).mode
    assert torch.equal(program.model.latent_prior(memory, key).mean, refined.sign())


@every_write
def test_encoder_steps_move_logits_and_write_signs(write):
    program, episode = signs_program(write, encoder_steps=3), random_episodes()
    first = program.guide.amortized_encoding(episode)
    assert torch.equal(program.guide.encode(episode).latent_loc, first.latent_loc)
    terms_of(trace_pair(program.model, program.guide, episode).log_probs()).elbo.sum().backward()
    assert all(rate.abs().max() > 0 for rate in program.guide.ascent.network.rates.grad)
    with torch.no_grad():
        program.guide.ascent.network.rates.fill_(0.3)
    moved = program.guide.encode(episode)
    assert set(moved.latent_loc.unique().tolist()) == {-1.0, 1.0}
    assert (moved.latent_loc != first.latent_loc).any()
    fits = [program.model.image_likelihood(z).log_prob(episode) for z in (first.latent_loc, moved.latent_loc)]
    assert fits[1].sum() > fits[0].sum()
