from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import kl_divergence

from inference.tracing import PLATE_NESTING, elbo_terms, site_mean, site_value, trace_pair
from kpp_pyro.memory.blocks import read
from tests.programs import IMAGE_SHAPE, WRITES, random_episodes, small_pair

CASES = [(write, networks, reads) for write in WRITES for networks in ("mlp", "conv") for reads in (1, 2)]
BOTH = {"episodes": -2, "images": -1}
both_writes = pytest.mark.parametrize("write", WRITES)


@pytest.mark.parametrize(("write", "networks", "reads"), CASES)
@pytest.mark.parametrize("particles", [None, 3])
def test_model_and_guide_agree_on_sites_shapes_and_plates(write, networks, reads, particles):
    program, episode = small_pair(write, networks, reads=reads), random_episodes()
    guide, model = program.guide, program.model
    if particles:
        plate = pyro.plate("particles", particles, dim=-3)
        guide, model = plate(guide), plate(model)
    guide_trace = poutine.trace(guide).get_trace(episode)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(episode)
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
        lead_frames = {"particles": -3} if particles else {}
        for site, plates in {"memory": {"episodes": -2}, "key": BOTH, "latent": BOTH, "image": BOTH}.items():
            if site in trace.nodes:
                frames = {frame.name: frame.dim for frame in trace.nodes[site]["cond_indep_stack"]}
                assert frames == lead_frames | plates, site
    layout, lead = program.model.addressing.layout, (particles,) if particles else ()
    shapes = {
        "memory": (3, 1, *layout.shape),
        "key": (3, 6, reads, 3),
        "latent": (3, 6, program.guide.write.latent_size),
    }
    for site, shape in shapes.items():
        assert guide_trace.nodes[site]["value"].shape == (*lead, *shape), site
        batch = (*lead, 3, 1 if site == "memory" else 6)
        assert guide_trace.nodes[site]["log_prob"].shape == batch, site
        assert model_trace.nodes[site]["log_prob"].expand(batch).shape == batch, site
        assert guide_trace.nodes[site]["fn"].event_shape == model_trace.nodes[site]["fn"].event_shape
    assert model_trace.nodes["image"]["log_prob"].shape == (*lead, 3, 6)
    latent = {name for name, node in prune_subsample_sites(guide_trace).nodes.items() if node["type"] == "sample"}
    assert latent == {"memory", "key", "latent"}


@pytest.mark.parametrize(("write", "networks", "reads"), CASES)
def test_every_parameter_receives_a_gradient(write, networks, reads):
    program = small_pair(write, networks, reads=reads, temporal_shift=0.125)
    loss = Trace_ELBO(max_plate_nesting=PLATE_NESTING)(program.model, program.guide)
    loss(random_episodes()).backward()
    without = [name for name, p in loss.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-9]
    assert without == []


def test_model_and_guide_share_no_parameter():
    program = small_pair("feed_forward")
    assert {id(p) for p in program.model.parameters()}.isdisjoint({id(p) for p in program.guide.parameters()})


@both_writes
def test_trace_elbo_is_the_elbo_written_out_by_hand_with_the_same_noise(write):
    program, episode = small_pair(write), random_episodes()
    model, guide = program.model, program.guide
    torch.manual_seed(7)
    loss = Trace_ELBO(max_plate_nesting=PLATE_NESTING)(model, guide)(episode)
    torch.manual_seed(7)
    encoding = guide.encode(episode)
    memory = guide.write(encoding)
    q_key, q_latent = guide.key_posterior(encoding), guide.latent_posterior(encoding)
    key, latent = q_key.rsample(), q_latent.rsample()
    loc, scale = model.reading(read(memory, key, model.addressing))
    logits = model.decoder(latent)
    log_likelihood = (episode * logits - torch.nn.functional.softplus(logits)).sum((-3, -2, -1))
    log_latent = torch.distributions.Normal(loc, scale).log_prob(latent).sum(-1)
    log_key = torch.distributions.Normal(0.0, 1.0).log_prob(key).sum((-2, -1))
    elbo = log_likelihood + log_latent + log_key - q_key.log_prob(key) - q_latent.log_prob(latent)
    torch.testing.assert_close(-loss, elbo.sum(), rtol=1e-12, atol=1e-9)


@both_writes
def test_mean_field_elbo_uses_the_analytic_kls(write):
    program, episode = small_pair(write), random_episodes()
    model, guide = program.model, program.guide
    torch.manual_seed(7)
    loss = TraceMeanField_ELBO(max_plate_nesting=PLATE_NESTING)(model, guide)(episode)
    torch.manual_seed(7)
    pair = trace_pair(model, guide, episode)
    nodes = pair.guide.nodes
    kl_key = kl_divergence(nodes["key"]["fn"], pair.model.nodes["key"]["fn"])
    kl_latent = kl_divergence(nodes["latent"]["fn"], pair.model.nodes["latent"]["fn"])
    pair.model.compute_log_prob()
    expected = pair.model.nodes["image"]["log_prob"] - kl_key - kl_latent
    torch.testing.assert_close(-loss, expected.sum(), rtol=1e-12, atol=1e-9)


@both_writes
def test_both_objectives_estimate_the_same_elbo(write):
    program, copies, runs = small_pair(write), 50, 30
    episode = random_episodes(1, 4).repeat(copies, 1, 1, 1, 1)
    with torch.no_grad():
        trace, mean_field = (
            torch.stack([make(max_plate_nesting=2)(program.model, program.guide)(episode) for _ in range(runs)])
            for make in (Trace_ELBO, TraceMeanField_ELBO)
        )
    error = (trace.var() / runs + mean_field.var() / runs).sqrt()
    assert (trace.mean() - mean_field.mean()).abs() < 4 * error


@both_writes
def test_permuting_episodes_permutes_results(write):
    program, episode = small_pair(write, temporal_shift=0.125), random_episodes()
    order = torch.tensor([2, 0, 1])
    first, second = (program.guide.encode(e) for e in (episode, episode[order]))
    torch.testing.assert_close(program.guide.write(first)[order], program.guide.write(second))
    torch.testing.assert_close(first.latent_loc[order], second.latent_loc)
    for q, p in zip(*(key_parameters(program, e) for e in (first, second)), strict=True):
        torch.testing.assert_close(q[order], p)


def key_parameters(program, encoding, memory=None):
    q = program.guide.key_posterior(encoding, memory)
    return [q.block_probs] if hasattr(q, "block_probs") else [q.mean, q.stddev]


@both_writes
def test_with_the_shift_off_permuting_cues_permutes_their_keys_and_latents(write):
    program, episode = small_pair(write), random_episodes()
    memory = program.guide.write(program.guide.encode(episode))
    order = torch.randperm(episode.shape[1])
    first, second = (program.guide.encode(e) for e in (episode, episode[:, order]))
    torch.testing.assert_close(first.latent_loc[:, order], second.latent_loc)
    torch.testing.assert_close(first.latent_scale[:, order], second.latent_scale)
    for q, p in zip(*(key_parameters(program, e, memory) for e in (first, second)), strict=True):
        torch.testing.assert_close(q[:, order], p)


def test_with_the_shift_off_permuting_written_images_permutes_keys_and_keeps_a_learned_memory():
    program, episode = small_pair("feed_forward"), random_episodes()
    order = torch.randperm(episode.shape[1])
    first, second = (program.guide.encode(e) for e in (episode, episode[:, order]))
    torch.testing.assert_close(program.guide.write(first), program.guide.write(second))
    for q, p in zip(*(key_parameters(program, e) for e in (first, second)), strict=True):
        torch.testing.assert_close(q[:, order], p)


def test_with_the_shift_on_an_image_depends_on_its_neighbours():
    program, episode = small_pair("feed_forward", temporal_shift=0.125), random_episodes()
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    first, second = (program.guide.encode(e).latent_loc for e in (episode, episode[:, order]))
    assert not torch.allclose(first[:, order], second)


@both_writes
def test_cues_are_read_from_the_given_memory_and_nothing_is_written(write):
    program, episode = small_pair(write), random_episodes()
    memory = program.guide.write(program.guide.encode(random_episodes(seed=9))).detach()
    pair = trace_pair(program.model, program.guide, episode, memory)
    assert "memory" not in pair.guide.nodes
    assert pair.value("memory") is memory
    assert pair.model.nodes["memory"]["is_observed"]
    assert set(elbo_terms(program.model, program.guide, episode, memory).kl) == {"key", "latent"}


def test_the_flat_priors_term_follows_its_value():
    program = small_pair()
    value = torch.zeros(3, 1, *program.model.addressing.layout.shape, dtype=torch.float64, device="meta")
    term = program.model.memory_prior(images=6).log_prob(value)
    assert (term.shape, term.dtype, term.device.type) == ((3, 1), torch.float64, "meta")


def test_a_written_image_that_claimed_a_block_is_found_by_its_content_as_by_its_claim():
    program, episode = small_pair("feed_forward"), random_episodes()
    encoding = program.guide.encode(episode)
    own, found = (
        program.guide.key_posterior(encoding),
        program.guide.key_posterior(encoding, program.guide.write(encoding)),
    )
    torch.testing.assert_close(own.mean, found.mean)
    torch.testing.assert_close(own.stddev, found.stddev)


def test_a_written_image_is_found_by_its_content_as_by_its_place():
    program, episode = small_pair("allocate"), random_episodes()
    encoding = program.guide.encode(episode)
    memory = program.guide.write(encoding)
    own, found = program.guide.key_posterior(encoding), program.guide.key_posterior(encoding, memory)
    torch.testing.assert_close(own.mode, found.mode)
    assert (found.block_probs * own.block_probs).sum(-1).min() > 0.99


@both_writes
def test_generation_is_conditioning_on_a_memory(write):
    program, episode = small_pair(write), random_episodes()
    memory = program.guide.write(program.guide.encode(episode)).detach()
    torch.manual_seed(3)
    trace = program.model.generate(memory, 4)
    assert site_value(trace, "memory") is memory
    torch.manual_seed(3)
    model = program.model
    key = model.key_prior().expand((3, 4)).sample()
    latent = model.latent_prior(memory, key).sample()
    torch.testing.assert_close(site_value(trace, "key"), key)
    torch.testing.assert_close(site_value(trace, "latent"), latent)
    torch.testing.assert_close(site_mean(trace, "image"), torch.sigmoid(model.decoder(latent)))
    assert site_value(trace, "image").shape == (3, 4, *IMAGE_SHAPE)
    assert set(site_value(trace, "image").unique().tolist()) <= {0.0, 1.0}


def test_a_flat_prior_has_an_empty_memory_in_place_of_a_draw():
    model, episode = small_pair().model, random_episodes()
    state = torch.get_rng_state()
    prior = model.memory_prior(episode.shape[1]).expand((len(episode), 1))
    memory = prior.sample()
    assert torch.equal(memory, torch.zeros(len(episode), 1, *model.memory_shape, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(prior.log_prob(memory + 1), torch.zeros(len(episode), 1, dtype=torch.float64))
    trace = poutine.trace(model).get_trace(episode)
    assert torch.equal(site_value(trace, "memory"), memory)
