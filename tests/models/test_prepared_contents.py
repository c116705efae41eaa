"""Contents that take content steps or are rounded before writing: only outside training, and exactly as prepared."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine

from inference.runs.load import load_pair
from inference.tracing import terms_of, trace_pair, written_memory
from inference.trained_memory import TrainedMemory
from kpp_pyro.files.checkpoint import save_checkpoint
from kpp_pyro.memory.blocks import cut_blocks, read
from kpp_pyro.writes.quantization import Quantization
from models.build import build
from models.registry import MODELS
from tests.programs import IMAGE_SHAPE, random_episodes, small_config, small_pair

BLOCK_WRITES = ("allocate", "allocate_by_content", "feed_forward")
MATRIX_MODELS = [name for name, kind in MODELS.items() if "memory_rows" in kind.settings]
MEMORYLESS = [{"model": name} for name, kind in MODELS.items() if not kind.has_memory]
PROGRAMS = [{"write": write} for write in BLOCK_WRITES] + [{"model": model} for model in MATRIX_MODELS]
every_program = pytest.mark.parametrize("changes", PROGRAMS, ids=lambda changes: next(iter(changes.values())))
both_writes = pytest.mark.parametrize("write", BLOCK_WRITES)


def looked_at(**changes):
    program = small_pair(**{"content_steps": 10, **changes})
    program.train(False)
    return program


@every_program
def test_in_training_contents_are_the_encoder_s_and_otherwise_refined(changes):
    program, episode = small_pair(content_steps=10, **changes), random_episodes()
    amortized = program.guide.amortized_encoding(episode)
    assert torch.equal(program.guide.encode(episode).latent_loc, amortized.latent_loc)
    program.train(False)
    refined = program.guide.encode(episode)
    (refine,) = program.guide.preparations
    assert torch.equal(refined.latent_loc, refine(amortized.latent_loc, episode))
    assert (refined.latent_loc - amortized.latent_loc).abs().max() > 1e-3
    assert torch.equal(refined.latent_scale, amortized.latent_scale)
    assert torch.equal(refined.features, amortized.features)
    program.train()
    assert torch.equal(program.guide.encode(episode).latent_loc, amortized.latent_loc)


@every_program
@torch.no_grad()
def test_every_image_s_content_says_more_of_it(changes):
    program, episode = looked_at(**changes), random_episodes()
    amortized, refined = program.guide.amortized_encoding(episode), program.guide.encode(episode)
    before, after = (
        program.model.image_likelihood(encoding.latent_loc).log_prob(episode) for encoding in (amortized, refined)
    )
    assert (after > before).all()


@every_program
@torch.no_grad()
def test_the_guide_writes_and_proposes_what_was_prepared(changes):
    program, episode = looked_at(**changes), random_episodes()
    encoding = program.guide.encode(episode)
    written = program.guide.memory_posterior(encoding)
    by_encoder = program.guide.memory_posterior(program.guide.amortized_encoding(episode))
    trace = poutine.trace(program.guide).get_trace(episode)
    torch.testing.assert_close(trace.nodes["memory"]["fn"].mean, written.mean)
    assert (written.mean - by_encoder.mean).abs().max() > 1e-4
    if not program.guide.latent_sees_read:
        latent = trace.nodes["latent"]["fn"]
        torch.testing.assert_close(latent.mean, encoding.latent_loc)
        torch.testing.assert_close(latent.stddev, encoding.latent_scale)


@pytest.mark.parametrize("bits", [None, 3])
def test_blocks_hold_exactly_the_contents_that_were_prepared_and_nothing_else(bits):
    program, episode = looked_at(), random_episodes()
    if bits is not None:
        program.guide.preparations += (Quantization(bits),)
    with torch.no_grad():
        held = cut_blocks(written_memory(program.guide, episode).squeeze(1), program.guide.write.layout)
    contents = program.guide.encode(episode).latent_loc
    assert torch.equal(held[:, :6].flatten(2), contents)
    assert not held[:, 6:].any()
    for image in contents.flatten(0, 1):
        assert (len(image.unique()) <= 2**3 - 1) == (bits == 3)


def test_contents_are_rounded_after_they_are_refined():
    program, episode = looked_at(), random_episodes()
    program.guide.preparations += (Quantization(4),)
    refine, quantize = program.guide.preparations
    amortized = program.guide.amortized_encoding(episode).latent_loc
    expected = quantize(refine(amortized, episode), episode)
    assert torch.equal(program.guide.encode(episode).latent_loc, expected)


@torch.no_grad()
def test_blocks_chosen_by_content_stay_those_of_the_encoding_and_hold_what_was_prepared():
    program, episode = looked_at(write="allocate_by_content"), random_episodes()
    write, encoding = program.guide.write, program.guide.encode(episode)
    assert torch.equal(encoding.blocks, program.guide.amortized_encoding(episode).blocks)
    assert write.blocks_of(encoding) is encoding.blocks
    memory = written_memory(program.guide, episode)
    own = read(memory, program.guide.key_posterior(encoding).mode, write.addressing).flatten(-4)
    torch.testing.assert_close(own, encoding.latent_loc, atol=1e-12, rtol=0)


@both_writes
@torch.no_grad()
def test_shared_blocks_hold_the_means_of_what_was_prepared(write):
    program, episode = looked_at(write=write), random_episodes(images=24)
    layout, encoding = program.guide.write.layout, program.guide.encode(episode)
    held = cut_blocks(program.guide.write(encoding).squeeze(1), layout).flatten(2)
    blocks = program.guide.write.blocks_of(encoding).squeeze(-1)
    for b in range(3):
        for n in blocks[b].unique():
            torch.testing.assert_close(held[b, n], encoding.latent_loc[b, blocks[b] == n].mean(0))


@pytest.mark.parametrize("signs", [None, 4])
def test_training_takes_the_content_steps_that_it_is_asked_for(signs):
    program = small_pair(content_steps=3, training_content_steps=3, signs_per_scalar=signs, episode_length=6)
    episode = random_episodes()
    encoded = [program.train(training).guide.encode(episode).latent_loc for training in (True, False)]
    assert torch.equal(*encoded)
    assert not torch.equal(encoded[0], program.guide.amortized_encoding(episode).latent_loc)
    program.train(True).guide.encode(episode).latent_loc.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in program.guide.encoder.parameters())


@both_writes
def test_the_encoder_learns_through_what_was_prepared_and_the_decoder_is_left_alone(write):
    program, episode = looked_at(write=write), random_episodes()
    program.guide.write(program.guide.encode(episode)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in program.guide.encoder.parameters())
    assert all(parameter.grad is None for parameter in program.model.decoder.parameters())


@every_program
def test_grey_cues_are_written_recalled_and_autoencoded(changes):
    """Pyro's checks are on, and a content step asks for the Bernoulli's density of what is not binary."""
    program = looked_at(latent_context="image", **changes)
    memories, grey = TrainedMemory(program.model, program.guide), 0.2 + 0.6 * random_episodes()
    memory = memories.write(grey)
    reads = [memories.recall(memory, grey, steps=2)[-1], memories.autoencode(grey, steps=2)[-1]]
    assert all(found.images.isfinite().all() for found in reads)


def test_a_prior_made_of_keys_needs_no_contents_and_is_the_same_in_training_or_not():
    """Pseudo-images are grey too, and only their keys are asked for."""
    program = small_pair(model="kanerva_machine", key_prior="vamp", content_steps=3)
    key = torch.randn(5, 2, *program.model.key_shape, dtype=torch.float64)
    in_training = program.model.key_prior().log_prob(key)
    program.train(False)
    program.guide.preparations = (lambda *_: pytest.fail("contents were prepared"),)
    assert torch.equal(program.model.key_prior().log_prob(key), in_training)


@pytest.mark.parametrize("training", [True, False])
def test_a_look_interrupts_training_even_where_it_fails(training):
    program = small_pair()
    program.train(training)
    parts = program.model, program.guide
    with pytest.raises(KeyError), program.evaluating():
        assert not any(module.training for part in parts for module in part.modules())
        raise KeyError
    assert all(module.training == training for part in parts for module in part.modules())


def test_what_is_loaded_is_there_to_be_looked_at(tmp_path):
    program = build(small_config(content_steps=10), IMAGE_SHAPE)
    assert program.guide.training
    save_checkpoint(tmp_path / "best.pt", {"step": 7, "pair": program.state_dict()})
    assert load_pair(program, tmp_path / "best.pt") == 7
    assert not any(module.training for part in (program.model, program.guide) for module in part.modules())
    episode = random_episodes().float()
    encoder_s = program.guide.amortized_encoding(episode).latent_loc
    assert not torch.equal(program.guide.encode(episode).latent_loc, encoder_s)


@pytest.mark.parametrize("changes", [*PROGRAMS, *MEMORYLESS], ids=lambda changes: next(iter(changes.values())))
def test_encoder_steps_are_taken_in_training_too_and_every_part_of_them_learns(changes):
    program, episode = small_pair(encoder_steps=2, **changes), random_episodes()
    first = program.guide.amortized_encoding(episode).latent_loc
    assert torch.equal(program.guide.encode(episode).latent_loc, first)  # heads and rates start at zero
    terms_of(trace_pair(program.model, program.guide, episode).log_probs()).elbo.sum().backward()
    gradients = {name: p.grad for name, p in program.guide.named_parameters() if "ascent" in name}
    at_start = {name for name, gradient in gradients.items() if gradient is not None and gradient.abs().max() > 0}
    assert len(gradients) == 9 and at_start >= {name for name in gradients if "stems" not in name}
    with torch.no_grad():
        program.guide.ascent.network.rates.fill_(0.05)
    for training in (True, False):
        moved = program.train(training).guide.encode(episode)
        assert (moved.latent_loc - first).abs().max() > 1e-4
        fits = [program.model.image_likelihood(z).log_prob(episode) for z in (first, moved.latent_loc)]
        assert fits[1].sum() > fits[0].sum()  # small steps along the gradient
        assert torch.equal(moved.features, program.guide.amortized_encoding(episode).features)
