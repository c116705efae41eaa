"""Semantic reads: which images read so, through which networks, and from which blocks."""

from __future__ import annotations

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from inference.tracing import site_value, terms_of, trace_pair
from kpp_pyro.distributions.block_key import BlockKey
from kpp_pyro.memory.blocks import SCALE, MemoryLayout, cut_blocks
from kpp_pyro.memory.sign_code import SignCode
from kpp_pyro.networks.heads import IdentityReading
from kpp_pyro.networks.semantic import DecoderOfHalves, SemanticReading
from tests.programs import random_episodes, small_pair

SEMANTIC, BLOCKS, STILL = 0.25, 16, 0.05
EDGE, BROAD = 0.02, 0.01
SHARP = 1 - BROAD - SEMANTIC
both_writes = pytest.mark.parametrize("write", ["allocate", "allocate_by_content"])
both_contents = pytest.mark.parametrize("signs", [None, 4], ids=["numbers", "signs"])


def semantic_program(write="allocate", sharp_scale=None, **changes):
    """A pair in eval mode; `sharp_scale` is the scale of latents that are read from written blocks."""
    program = small_pair(write, semantic_reads=SEMANTIC, left_out=2, episode_length=6, **changes)
    program.train(False)
    if sharp_scale is not None:
        sharp = program.model.reading.network.sharp
        sharp.raw_scale.data.fill_(math.log(math.expm1(sharp_scale - sharp.smallest_scale)) + 2)
    return program


def encoded(program, cues, loc):
    """Encodings of cues with given contents, whose scale is that of a sharp read."""
    _, scale = program.model.reading.network.sharp(torch.zeros(1, *program.model.addressing.layout.block_shape))
    return replace(program.guide.encode(cues), latent_loc=loc, latent_scale=scale.detach().expand_as(loc))


def contents(program, seed=1):
    """Contents of `random_episodes()` that are far from one another."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(3, 6, program.guide.write.latent_size, dtype=torch.float64, generator=generator)
    return loc.sign() if program.guide.write.code else loc


def written(program, loc):
    return program.guide.write(replace(program.guide.encode(random_episodes()), latent_loc=loc))


def unsure_cues(program):
    """A memory, and encodings of cues that match many of its blocks, by sharp and by semantic reads."""
    memory = written(program, contents(program))
    encoding = encoded(program, random_episodes(seed=8), contents(program, seed=2))
    loc, scale = (part[:, :6].detach() for part in program.model.block_priors(memory, True))
    return memory, replace(encoding, semantic=(loc + 0.3 * torch.randn_like(loc), 0.8 * scale))


def keys_of_blocks(program, uniform_scale):
    """Keys (N, 1, 3) of every block, whose scale is the prior's quantile at `uniform_scale`."""
    layout = program.model.addressing.layout
    scale = torch.special.ndtri(torch.tensor(uniform_scale, dtype=torch.float64)).item()
    return program.model.addressing.key_grid(layout.rows, layout.columns, scale).double()


def kls(program, encoding, memory):
    """KL(q(z|X, y) || p(z|M, y)) of cues and keys of every block, sharp and then semantic, by PyTorch, (B, T, 2 N).

    Of the half that carries what is read, alone.
    """
    reading = program.model.reading.network
    blocks = cut_blocks(memory.squeeze(1), program.model.addressing.layout).unsqueeze(2)  # (B, N, 1, C_m, h, w)
    found = []
    for own, said in (
        ((encoding.latent_loc, encoding.latent_scale), reading.sharp(blocks)),
        (encoding.semantic, reading.semantic(blocks)),
    ):
        posterior, prior = (part.unsqueeze(2) for part in own), (part.unsqueeze(1) for part in said)
        found.append(kl_divergence(dist.Normal(*posterior), dist.Normal(*prior)).sum(-1))
    return torch.cat(found, -1)


def log_masses():
    """ln of the prior probabilities of the keys that read one block in one way, (2 N)."""
    shares = torch.tensor([SHARP, SEMANTIC], dtype=torch.float64)
    layout = small_pair().model.addressing.layout
    down, across = widths(layout.rows), widths(layout.columns)
    return (shares[:, None, None] * down[:, None] * across).flatten().log()


def widths(steps):
    """Shares of an axis that lie in each of `steps` blocks without its inner edges."""
    width = torch.full((steps,), 1 - EDGE, dtype=torch.float64)
    width[0] += EDGE / 2
    width[-1] += EDGE / 2
    return width / steps


# The networks


@pytest.mark.parametrize("code", [None, SignCode(4)], ids=["numbers", "signs"])
def test_either_way_to_read_moves_a_half_of_the_latent_and_semantic_ones_by_a_function_of_the_content(code):
    layout = MemoryLayout(2, 8, 8, 2, 2)
    sharp = IdentityReading(layout, 0.05, code)
    reading = SemanticReading(sharp, 12, 0.05).double()
    blocks = 2 * torch.rand(5, 3, 1, *layout.block_shape, dtype=torch.float64) - 1
    is_semantic = torch.rand(5, 3, 1) < 0.5
    chosen = is_semantic.squeeze(-1)
    parts = zip(reading(blocks, is_semantic), sharp(blocks), reading.semantic(blocks), (0.0, STILL), strict=True)
    for found, held, said, still in parts:
        first, second = found.chunk(2, -1)
        assert torch.equal(first[~chosen], held[~chosen]) and torch.equal(second[chosen], said[chosen])
        assert (first[chosen] == still).all() and (second[~chosen] == still).all()
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


def test_logits_of_the_halves_add_up_and_contents_are_decoded_as_the_first_beside_zeros():
    first, second = nn.Linear(3, 7).double(), nn.Linear(3, 7).double()
    decoder, latent = DecoderOfHalves(first, second, 6), torch.randn(2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(decoder(latent), first(latent[..., :3]) + second(latent[..., 3:]))
    torch.testing.assert_close(decoder(latent[..., :3]), first(latent[..., :3]) + second.bias)


# The model


@both_contents
def test_what_blocks_say_is_the_prior_of_all_keys_that_read_them_so(signs):
    program = semantic_program(signs_per_scalar=signs)
    memory = written(program, contents(program))
    size = program.guide.write.latent_size
    for semantic, uniforms in ((False, (1e-6, 0.5, SHARP - 1e-6)), (True, (SHARP + 1e-6, 1 - BROAD - 1e-6))):
        loc, scale = program.model.block_priors(memory, semantic)
        assert loc.shape == scale.shape == (3, BLOCKS, size)
        for uniform in uniforms:
            prior = program.model.latent_prior(memory, keys_of_blocks(program, uniform).expand(3, -1, -1, -1))
            torch.testing.assert_close(loc, prior.mean.chunk(2, -1)[semantic], atol=1e-12, rtol=1e-7)
            torch.testing.assert_close(scale, prior.stddev.chunk(2, -1)[semantic])
    blocks = cut_blocks(memory.squeeze(1), program.model.addressing.layout).flatten(2)
    held = SignCode(signs).unpack(blocks) if signs else blocks
    assert torch.equal(program.model.block_priors(memory, False)[0], held)


def test_what_is_generated_reads_semantically_as_often_as_the_prior_says():
    program = semantic_program()
    key = site_value(program.model.generate(written(program, contents(program)), 1000), "key")
    share = program.model.addressing.is_semantic(key).double().mean().item()
    assert abs(share - SEMANTIC) < 4 * math.sqrt(SEMANTIC * (1 - SEMANTIC) / 3000)


def test_a_recall_is_of_what_was_written_in_whichever_way_a_block_would_be_read():
    program = semantic_program()
    memory = written(program, contents(program))
    held = cut_blocks(memory.squeeze(1), program.model.addressing.layout).flatten(2)
    probs = torch.rand(3, 6, 1, 2 * BLOCKS, dtype=torch.float64).softmax(-1)
    recalled = program.model.mean_read_prior(memory, BlockKey(probs, program.model.addressing))
    of_blocks = probs.squeeze(2).unflatten(-1, (2, BLOCKS)).sum(2)
    expected = torch.einsum("btn,bns->bts", of_blocks, held)
    torch.testing.assert_close(recalled.mean, torch.cat([expected, torch.zeros_like(expected)], -1))
    assert (recalled.stddev[..., expected.shape[-1] :] == STILL).all()


@both_contents
def test_a_corrupted_copy_is_recalled_by_its_content_however_a_left_out_image_would_read(signs):
    program = semantic_program(signs_per_scalar=signs)
    memory = written(program, contents(program))
    cues = encoded(program, random_episodes(seed=8), (1 if signs else 4) * contents(program, seed=2))
    assert program.guide.key_posterior(cues, memory).block_probs[..., :BLOCKS].max() < 1e-6
    found = program.guide.recall_posterior(cues, memory).block_probs
    torch.testing.assert_close(found, program.guide.write.match(cues, memory))
    plain = small_pair(signs_per_scalar=signs, episode_length=6)  # without semantic reads all cues are such copies
    encoding = plain.guide.encode(random_episodes())
    own, read = (find(encoding, memory) for find in (plain.guide.key_posterior, plain.guide.recall_posterior))
    assert torch.equal(own.block_probs, read.block_probs)


# Who reads so


@both_contents
def test_cues_read_blocks_in_the_ways_that_explain_their_latents_and_in_training_only_semantically(signs):
    program = semantic_program(signs_per_scalar=signs, sharp_scale=2.0)
    memory, cues = unsure_cues(program)
    log_weights = log_masses() - kls(program, cues, memory)
    q = program.guide.key_posterior(cues, memory)
    torch.testing.assert_close(q.block_probs.squeeze(2), log_weights.softmax(-1))
    assert 0.05 < q.block_probs[..., :BLOCKS].sum(-1).mean() < 0.95
    assert q.block_probs.unflatten(-1, (2, BLOCKS)).std(-1).min() > 1e-4  # it makes a difference which block
    assert q.has_rsample and not q.block_probs.requires_grad
    program.train()
    q = program.guide.key_posterior(cues, memory)
    assert not q.block_probs[..., :BLOCKS].any()
    torch.testing.assert_close(q.block_probs[:, :, 0, BLOCKS:], log_weights[..., BLOCKS:].softmax(-1))
    assert program.model.addressing.is_semantic(q.sample((20,))).all()


@both_writes
@both_contents
def test_what_was_written_is_read_back_and_left_out_images_read_semantically(write, signs):
    program, episode = semantic_program(write, sharp_scale=0.1, signs_per_scalar=signs), random_episodes()
    loc = contents(program)
    encoding = encoded(program, episode, loc)
    memory, own = program.guide.write(encoding), program.guide.key_posterior(encoding)
    assert not program.model.addressing.is_semantic(own.sample((50,))).any()
    q = program.guide.key_posterior(encoding, memory)
    assert q.block_probs.amax(-1).min() > 0.95
    torch.testing.assert_close(q.mode, own.mode.expand_as(q.mode))
    half = loc.shape[-1] // 2
    strange = torch.cat([-loc[..., :half], loc[..., half:]], -1)
    empty = torch.zeros_like(memory)
    for cue, held in ((strange, memory), (loc, empty)):
        semantic = program.guide.key_posterior(encoded(program, episode, cue), held).block_probs[..., BLOCKS:]
        assert (semantic.sum(-1) > 1 - 1e-9).all()
    of_prior = log_masses()[BLOCKS:].softmax(-1).expand_as(semantic)
    torch.testing.assert_close(semantic, of_prior)  # blocks of zeros are all alike


# The posterior of the latent


@both_contents
def test_semantic_keys_move_the_other_half_of_the_latent_with_a_head_of_its_own(signs):
    program = semantic_program(signs_per_scalar=signs)
    guide, encoding = program.guide, program.guide.encode(random_episodes())
    memory = guide.write(encoding)
    key = torch.randn(3, 6, 1, 3, dtype=torch.float64)
    uniform = torch.tensor([0.1, 0.7, 0.76, 0.9, 0.98, 0.995])  # two sharp, three semantic, one broad
    key[..., 0, SCALE] = torch.special.ndtri(uniform.double())
    found = guide.latent_posterior(encoding, memory, key)
    without = guide.latent_posterior(encoding)
    several = guide.latent_posterior(encoding, memory, key.expand(4, -1, -1, -1, -1))  # under particles
    own = encoding.latent_loc, encoding.latent_scale
    for name, head, semantic, still in zip(("mean", "stddev"), own, encoding.semantic, (0.0, STILL), strict=True):
        first, second = getattr(found, name).chunk(2, -1)
        torch.testing.assert_close(second[:, 2:5], semantic[:, 2:5])
        assert (first[:, 2:5] == still).all()
        for others in (slice(0, 2), slice(5, 6)):
            torch.testing.assert_close(first[:, others], head[:, others])
            assert (second[:, others] == still).all()
        still_half = torch.full_like(head, still)
        torch.testing.assert_close(getattr(without, name), torch.cat([head, still_half], -1))
        torch.testing.assert_close(getattr(several, name), getattr(found, name).expand(4, -1, -1, -1))
        assert not torch.isclose(head, semantic).all(-1).any()


def test_the_half_that_lies_still_costs_an_own_image_nothing():
    program, episode = semantic_program(sharp_scale=0.1), random_episodes()
    pair = trace_pair(program.model, program.guide, episode)
    terms = kl_divergence(*(trace.nodes["latent"]["fn"].base_dist for trace in (pair.guide, pair.model)))
    carried, still = terms.chunk(2, -1)
    assert not still.any()
    spread = program.guide.encode(episode).latent_scale / 0.1
    torch.testing.assert_close(carried, spread.square() / 2 - 0.5 - spread.log())


def test_without_semantic_reads_the_latent_sees_no_key_and_has_one_head():
    program = small_pair()
    assert not program.guide.latent_sees_read and semantic_program().guide.latent_sees_read
    assert program.guide.encode(random_episodes()).semantic is None
    assert not any("semantic" in name for name in program.guide.state_dict())


# What the choice of blocks is worth


def expected_terms(program, encoding, memory, probs):
    """-KL of keys and latents of cues, on average over blocks and ways to read them of these probabilities."""
    keys = BlockKey(probs.unsqueeze(-2), program.model.addressing)
    return -(probs * kls(program, encoding, memory)).sum(-1) - keys.kl_to_prior()


@pytest.mark.parametrize("training", [False, True])
@both_contents
def test_no_other_choice_has_a_greater_elbo_and_in_training_no_other_semantic_one(signs, training):
    program = semantic_program(signs_per_scalar=signs, sharp_scale=2.0)
    memory, encoding = unsure_cues(program)
    program.train(training)
    probs = program.guide.key_posterior(encoding, memory).block_probs.squeeze(2)
    ways = slice(BLOCKS if training else 0, None)
    best = expected_terms(program, encoding, memory, probs)
    torch.testing.assert_close(best, (log_masses() - kls(program, encoding, memory))[..., ways].logsumexp(-1))
    nearby = [(probs.log() + size * torch.randn_like(probs)).softmax(-1) for size in (0.01, 0.1, 1.0) * 10]
    single = torch.eye(2 * BLOCKS, dtype=torch.float64)[ways]
    for other in (*nearby, *(one.expand_as(probs) for one in (*single, single.mean(0)))):
        assert (expected_terms(program, encoding, memory, other) < best).all()


def test_the_gradient_is_that_of_the_best_choice_as_if_it_were_not_chosen():
    program, cues = semantic_program(sharp_scale=1.0), random_episodes(seed=8)
    encoding, reading = program.guide.encode(cues), program.model.reading.network
    memory = program.guide.write(encoding).detach().requires_grad_()
    probs = program.guide.key_posterior(encoding, memory).block_probs.squeeze(2)
    over = (memory, reading.sharp.raw_scale, *reading.head.parameters(), *program.guide.encoder.parameters())
    found = torch.autograd.grad(expected_terms(program, encoding, memory, probs).sum(), over, retain_graph=True)
    exact = torch.autograd.grad((log_masses() - kls(program, encoding, memory)).logsumexp(-1).sum(), over)
    for own, other in zip(found, exact, strict=True):
        assert own.abs().max() > 1e-6
        torch.testing.assert_close(own, other, atol=1e-10, rtol=1e-8)


@torch.no_grad()
def test_draws_of_the_program_average_to_the_enumeration_over_blocks():
    program, cues, draws = semantic_program(sharp_scale=1.0), random_episodes(2, 3, seed=8), 2000
    encoding = program.guide.encode(cues)
    memory = program.guide.write(replace(encoding, latent_loc=encoding.latent_loc + 0.3))
    log_weights = log_masses() - kls(program, encoding, memory)
    terms = terms_of(trace_pair(program.model, program.guide, cues, memory, particles=draws).log_probs())
    sampled = -terms.kl["key"] - terms.kl["latent"]  # (draws, B, T)
    assert ((sampled.mean(0) - log_weights.logsumexp(-1)).abs() < 4.5 * sampled.std(0) / math.sqrt(draws)).all()
    share = log_weights.softmax(-1)[..., :BLOCKS].sum(-1)
    assert share.min() > 0.02 and share.max() < 0.98
    own, semantic = dist.Normal(encoding.latent_loc, encoding.latent_scale), dist.Normal(*encoding.semantic)
    still = dist.Normal(torch.zeros_like(own.mean), STILL)
    ways = ((own, still), (still, semantic))
    latents = (torch.cat([half.sample((draws,)) for half in halves], -1) for halves in ways)
    fits = [program.model.image_likelihood(latent).log_prob(cues) for latent in latents]
    fit = share * fits[0] + (1 - share) * fits[1]
    error = (fit.var(0) + terms.reconstruction.var(0)).div(draws).sqrt()
    assert ((terms.reconstruction.mean(0) - fit.mean(0)).abs() < 4.5 * error).all()
