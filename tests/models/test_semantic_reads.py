"""Reads of what a block says of other images: who reads so, through which networks, and from which blocks."""

from __future__ import annotations

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import kl_divergence

from inference.evaluation import terms_of
from inference.traces import site_value, trace_pair
from kpp_pyro.block_key import BlockKey
from kpp_pyro.memory import SCALE, MemoryLayout, cut_blocks, join_blocks
from kpp_pyro.networks.reading import IdentityReading, SemanticReading
from kpp_pyro.sign_code import SignCode
from kpp_pyro.writes import AllocateWrite
from tests.programs import random_episodes, small_program

SEMANTIC, BLOCKS = 0.25, 16
EDGE, BROAD = 0.02, 0.01
both_writes = pytest.mark.parametrize("write", ["allocate", "allocate_by_content"])
both_contents = pytest.mark.parametrize("signs", [None, 4], ids=["numbers", "signs"])


def semantic_program(write="allocate", **changes):
    return small_program(write, semantic_reads=SEMANTIC, left_out=2, episode_length=6, **changes)


def encoded(program, cues, loc=None):
    """What is known of cues, with contents of our own."""
    encoding = program.guide.encode(cues)
    return encoding if loc is None else replace(encoding, latent_loc=loc)


def contents(program, episodes=3, images=6):
    """Contents that are far from one another."""
    loc = torch.randn(episodes, images, program.guide.write.latent_size, dtype=torch.float64)
    return loc.sign() if program.guide.write.code else loc


def strangers(program):
    """Cues whose contents are far from all that `contents` makes."""
    return encoded(program, random_episodes(seed=8), (1 if program.guide.write.code else 4) * contents(program))


def written(program, loc):
    return program.guide.write(encoded(program, random_episodes(*loc.shape[:2]), loc))


def keys_of_blocks(program, uniform_scale):
    """Keys (N, 1, 3) of every block, of a scale that the prior has below with this probability."""
    layout = program.model.addressing.layout
    scale = torch.special.ndtri(torch.tensor(uniform_scale, dtype=torch.float64)).item()
    return program.model.addressing.key_grid(layout.rows, layout.columns, scale).double()


def kls(program, encoding, memory):
    """KL(q(z|X, y) || p(z|M, y)) of cues and semantic keys of every block, by PyTorch, (B, T, N)."""
    own = dist.Normal(*(part.unsqueeze(2) for part in encoding.semantic))
    said = dist.Normal(*(part.unsqueeze(1) for part in program.model.semantic_priors(memory)))
    return kl_divergence(own, said).sum(-1)


def log_mass():
    """ln of the prior probability of the keys that read one block semantically."""
    return math.log((1 - EDGE) ** 2 * SEMANTIC / BLOCKS)


# The network


@pytest.mark.parametrize("code", [None, SignCode(4)], ids=["numbers", "signs"])
def test_keys_that_read_what_was_written_get_the_identity_s_and_semantic_ones_a_function_of_the_content(code):
    layout = MemoryLayout(2, 8, 8, 2, 2)
    sharp = IdentityReading(layout, 0.05, code)
    reading = SemanticReading(sharp, 12, 0.05).double()
    blocks = 2 * torch.rand(5, 3, 1, *layout.block_shape, dtype=torch.float64) - 1
    is_semantic = torch.rand(5, 3, 1) < 0.5
    for found, written, said in zip(reading(blocks, is_semantic), sharp(blocks), reading.semantic(blocks), strict=True):
        chosen = is_semantic.squeeze(-1)
        assert torch.equal(found[chosen], said[chosen]) and torch.equal(found[~chosen], written[~chosen])
        assert not torch.isclose(said, written).all(-1).any()
    for one, other in zip(reading.semantic(blocks), reading.semantic(-blocks), strict=True):
        assert not torch.isclose(one, other).all(-1).any()
    alone = [reading.semantic(block) for block in blocks.flatten(0, 1)]
    for found, parts in zip(reading.semantic(blocks), zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found.flatten(0, 1), torch.stack(parts))
    if code:  # what lies between the levels says nothing more
        same = code.pack(code.unpack(blocks.flatten(-4))).view_as(blocks)
        for one, other in zip(reading.semantic(blocks), reading.semantic(same), strict=True):
            assert torch.equal(one, other)


def test_a_semantic_prior_begins_about_as_wide_as_a_vae_s():
    layout = MemoryLayout(2, 8, 8, 2, 2)
    reading = SemanticReading(IdentityReading(layout, 0.05), 64, 0.05)
    _, scale = reading.semantic(torch.randn(50, 1, *layout.block_shape))
    assert 0.8 < scale.mean() < 1.25 and scale.min() > 0.25 and scale.max() < 4


# The model


@both_contents
def test_semantic_priors_are_those_of_semantic_keys_and_other_keys_read_what_was_written(signs):
    program = semantic_program(signs_per_scalar=signs)
    memory = written(program, contents(program))
    loc, scale = program.model.semantic_priors(memory)
    assert loc.shape == scale.shape == (3, BLOCKS, program.guide.write.latent_size)
    sharp = 1 - BROAD - SEMANTIC
    for uniform in (sharp + 1e-6, sharp + SEMANTIC / 2, 1 - BROAD - 1e-6):
        prior = program.model.latent_prior(memory, keys_of_blocks(program, uniform).expand(3, -1, -1, -1))
        torch.testing.assert_close(prior.mean, loc)
        torch.testing.assert_close(prior.stddev, scale)
    blocks = cut_blocks(memory.squeeze(1), program.model.addressing.layout).flatten(2)
    held = SignCode(signs).unpack(blocks) if signs else blocks
    for uniform in (1e-6, 0.5, sharp - 1e-6):
        prior = program.model.latent_prior(memory, keys_of_blocks(program, uniform).expand(3, -1, -1, -1))
        torch.testing.assert_close(prior.mean, held, atol=1e-12, rtol=0)


def test_what_is_generated_reads_semantically_as_often_as_the_prior_says():
    program = semantic_program()
    key = site_value(program.model.generate(written(program, contents(program)), 4000), "key")
    share = program.model.addressing.is_semantic(key).double().mean().item()
    assert abs(share - SEMANTIC) < 4 * math.sqrt(SEMANTIC * (1 - SEMANTIC) / 12_000)


def test_a_recall_is_of_what_was_written_in_whichever_way_a_block_would_be_read():
    program = semantic_program()
    memory = written(program, contents(program))
    for half in (slice(0, BLOCKS), slice(BLOCKS, 2 * BLOCKS)):
        probs = torch.zeros(3, 6, 1, 2 * BLOCKS, dtype=torch.float64)
        probs[..., half] = torch.rand(3, 6, 1, BLOCKS, dtype=torch.float64).softmax(-1)
        recalled = program.model.recalled(memory, BlockKey(probs, program.model.addressing))
        held = cut_blocks(memory.squeeze(1), program.model.addressing.layout).flatten(2)
        torch.testing.assert_close(recalled.mean, torch.einsum("btn,bns->bts", probs[:, :, 0, half], held))
        assert (recalled.stddev < 0.5).all()


# Who reads so


@both_writes
@both_contents
def test_a_stranger_reads_semantically_blocks_by_how_well_they_explain_its_latent(write, signs):
    program = semantic_program(write, signs_per_scalar=signs)
    memory = written(program, contents(program))
    cues = strangers(program)
    q = program.guide.key_posterior(cues, memory)
    assert not q.block_probs[..., :BLOCKS].any()
    expected = (-kls(program, cues, memory)).softmax(-1)
    torch.testing.assert_close(q.block_probs[:, :, 0, BLOCKS:], expected)
    assert expected.amax(-1).min() > 1.01 / BLOCKS  # it makes a difference which
    assert program.model.addressing.is_semantic(q.sample((20,))).all()
    assert q.has_rsample and not q.block_probs.requires_grad


@both_writes
@both_contents
def test_a_cue_that_was_written_reads_what_was_written(write, signs):
    program, episode = semantic_program(write, signs_per_scalar=signs), random_episodes()
    encoding = encoded(program, episode, contents(program))
    memory = program.guide.write(encoding)
    q = program.guide.key_posterior(encoding, memory)
    assert not q.block_probs[..., BLOCKS:].any()
    torch.testing.assert_close(q.block_probs[..., :BLOCKS], program.guide.write.match(encoding, memory))
    own = program.guide.key_posterior(replace(encoding, latent_loc=encoding.latent_loc))
    torch.testing.assert_close(q.mode[..., 1:], own.mode[..., 1:])
    assert not program.model.addressing.is_semantic(own.sample((50,))).any()  # nor do images at their own keys


@pytest.mark.parametrize("away", [0.05, 0.15, 0.25, 0.35])
def test_between_near_and_far_a_cue_may_be_either(away):
    program = semantic_program()
    encoding = encoded(program, random_episodes(), contents(program))
    memory = program.guide.write(encoding)
    held = cut_blocks(memory.squeeze(1), program.model.addressing.layout)[:, :6].flatten(2)  # that were written to
    variance = held.var(1, correction=0).mean(-1)[:, None, None]  # (B, 1, 1)
    direction = torch.nn.functional.normalize(torch.randn_like(encoding.latent_loc), dim=-1)
    step = (away * variance * encoding.latent_loc.shape[-1]).sqrt() * direction
    cue = replace(encoding, latent_loc=encoding.latent_loc + step)
    q = program.guide.key_posterior(cue, memory)
    share = min(1.0, (0.4 - away) / 0.3)
    sharp, semantic = q.block_probs[:, :, 0].split(BLOCKS, -1)
    torch.testing.assert_close(sharp, share * program.guide.write.match(cue, memory).squeeze(2))
    torch.testing.assert_close(semantic, (1 - share) * (-kls(program, cue, memory)).softmax(-1))


def test_free_blocks_change_nothing_for_a_cue():
    program, images = semantic_program(), BLOCKS  # of which each has a block
    encoding = encoded(program, random_episodes(3, images), contents(program, images=images))
    full = program.guide.write(encoding)
    blocks = cut_blocks(full.squeeze(1), program.model.addressing.layout)
    blocks[:, 6:] = 0.0
    part = join_blocks(blocks, program.model.addressing.layout).unsqueeze(1)
    tight = MemoryLayout(2, 2, 12, 2, 2)  # six blocks of the same size, all taken
    write = AllocateWrite(tight, encoding.features.shape[-1], 0.05, semantic=SEMANTIC).double()
    cue = replace(encoding, latent_loc=encoding.latent_loc + 0.4 * torch.randn_like(encoding.latent_loc))
    known = join_blocks(blocks[:, :6], tight).unsqueeze(1)
    loc, scale = program.model.semantic_priors(part)
    found = program.guide.write.semantic_key_posterior(cue, part, loc, scale).block_probs[..., :6]
    expected = write.semantic_key_posterior(cue, known, loc[:, :6], scale[:, :6]).block_probs[..., :6]
    assert 0.01 < expected.sum(-1).mean() < 0.99
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_what_all_contents_have_in_common_brings_no_stranger_nearer(mean):
    program = semantic_program()
    loc, strange = contents(program), contents(program)
    memory = written(program, loc + mean)
    probs = program.guide.key_posterior(encoded(program, random_episodes(seed=8), strange + mean), memory).block_probs
    without = program.guide.key_posterior(encoded(program, random_episodes(seed=8), strange), written(program, loc))
    torch.testing.assert_close(probs[..., :BLOCKS].sum(-1), without.block_probs[..., :BLOCKS].sum(-1))


@both_contents
def test_in_a_memory_of_zeros_all_cues_are_strangers_to_all_blocks_alike(signs):
    program = semantic_program(signs_per_scalar=signs)
    memory = torch.zeros(3, 1, *program.model.memory_shape, dtype=torch.float64)
    probs = program.guide.key_posterior(encoded(program, random_episodes(), contents(program)), memory).block_probs
    assert not probs[..., :BLOCKS].any()
    torch.testing.assert_close(probs[..., BLOCKS:], torch.full_like(probs[..., BLOCKS:], 1 / BLOCKS))


# The posterior of the latent


@both_contents
def test_only_semantic_keys_take_the_latent_s_other_head(signs):
    program, episode = semantic_program(signs_per_scalar=signs), random_episodes()
    guide, encoding = program.guide, program.guide.encode(random_episodes())
    memory = guide.write(encoding)
    key = torch.randn(3, 6, 1, 3, dtype=torch.float64)
    uniform = torch.tensor([0.1, 0.7, 0.76, 0.9, 0.98, 0.995])  # two sharp, three semantic, one broad
    key[..., 0, SCALE] = torch.special.ndtri(uniform.double())
    found = guide.latent_posterior(encoding, memory, key)
    loc, scale = encoding.semantic
    torch.testing.assert_close(found.mean[:, 2:5], loc[:, 2:5])
    torch.testing.assert_close(found.stddev[:, 2:5], scale[:, 2:5])
    for others in (slice(0, 2), slice(5, 6)):
        torch.testing.assert_close(found.mean[:, others], encoding.latent_loc[:, others])
        torch.testing.assert_close(found.stddev[:, others], encoding.latent_scale[:, others])
    without = guide.latent_posterior(encoding)
    torch.testing.assert_close(without.mean, encoding.latent_loc)
    assert not torch.isclose(loc, encoding.latent_loc).all(-1).any()
    several = guide.latent_posterior(encoding, memory, key.expand(4, -1, -1, -1, -1))  # under particles
    torch.testing.assert_close(several.mean, found.mean.expand(4, -1, -1, -1))
    assert guide.latent_sees_read
    own = poutine.trace(guide).get_trace(episode).nodes["latent"]["fn"]  # of images that were written
    torch.testing.assert_close(own.mean, encoding.latent_loc)


def test_without_semantic_reads_the_latent_sees_no_key_and_has_one_head():
    program = small_program()
    assert not program.guide.latent_sees_read
    assert program.guide.encode(random_episodes()).semantic is None
    assert not any("semantic" in name for name in program.guide.state_dict())


# What the choice of blocks is worth


def expected_terms(program, encoding, memory, probs):
    """-KL of keys and latents of cues that read semantically, on average over blocks of these probabilities."""
    both = torch.cat([torch.zeros_like(probs), probs], -1).unsqueeze(-2)
    keys = BlockKey(both, program.model.addressing)
    return -(probs * kls(program, encoding, memory)).sum(-1) - keys.kl_to_prior()


@both_contents
def test_no_other_choice_of_blocks_has_a_greater_elbo(signs):
    program = semantic_program(signs_per_scalar=signs)
    memory = written(program, contents(program))
    encoding = strangers(program)
    probs = program.guide.key_posterior(encoding, memory).block_probs[:, :, 0, BLOCKS:]
    best = expected_terms(program, encoding, memory, probs)
    torch.testing.assert_close(best, log_mass() + (-kls(program, encoding, memory)).logsumexp(-1))
    nearby = [(probs.log() + size * torch.randn_like(probs)).softmax(-1) for size in (0.01, 0.1, 1.0) * 20]
    single = torch.eye(BLOCKS, dtype=torch.float64).unbind()
    for other in (*nearby, *(one.expand_as(probs) for one in single), torch.full_like(probs, 1 / BLOCKS)):
        worse = expected_terms(program, encoding, memory, other)
        assert (worse < best).all()


def test_the_gradient_is_that_of_the_best_choice_as_if_it_were_not_chosen():
    program = semantic_program()
    memory = written(program, contents(program)).detach().requires_grad_()
    encoding = strangers(program)
    probs = program.guide.key_posterior(encoding, memory).block_probs[:, :, 0, BLOCKS:]
    over = (memory, *program.guide.write.to_semantic.parameters(), *program.model.reading.network.head.parameters())
    found = torch.autograd.grad(expected_terms(program, encoding, memory, probs).sum(), over, retain_graph=True)
    exact = torch.autograd.grad((-kls(program, encoding, memory)).logsumexp(-1).sum(), over)
    for own, other in zip(found, exact, strict=True):
        assert own.abs().max() > 1e-6
        torch.testing.assert_close(own, other, atol=1e-10, rtol=1e-8)


@torch.no_grad()
def test_draws_of_the_program_average_to_the_enumeration_over_blocks():
    program, cues, draws = semantic_program(), random_episodes(2, 3, seed=8), 3000
    memory = 5 * torch.randn(2, 1, *program.model.memory_shape, dtype=torch.float64).sign()  # far from all contents
    encoding = program.guide.encode(cues)
    exact = log_mass() + (-kls(program, encoding, memory)).logsumexp(-1)
    terms = terms_of(trace_pair(program.model, program.guide, cues, memory, particles=draws).log_probs())
    sampled = -terms.kl["key"] - terms.kl["latent"]  # (draws, B, T)
    assert ((sampled.mean(0) - exact).abs() < 4.5 * sampled.std(0) / math.sqrt(draws)).all()
    logits = program.model.decoder(dist.Normal(*encoding.semantic).sample((draws,)))
    fit = dist.Bernoulli(logits=logits).to_event(3).log_prob(cues)
    error = (fit.var(0) + terms.reconstruction.var(0)).div(draws).sqrt()
    assert ((terms.reconstruction.mean(0) - fit.mean(0)).abs() < 4.5 * error).all()
