"""Writes of signs, many to a scalar: a read at an image's own key gives all of them back, and cues are told apart."""

from __future__ import annotations

import pytest
import torch

from kpp_pyro.memory.blocks import MemoryLayout, cut_blocks, read
from kpp_pyro.memory.sign_code import SignCode
from kpp_pyro.networks.heads import IdentityReading
from kpp_pyro.posteriors.families import MeanFieldPosterior
from kpp_pyro.writes.allocate_by_content import AllocateByContentWrite
from kpp_pyro.writes.blocks import AllocateWrite
from kpp_pyro.writes.feed_forward import FeedForwardWrite
from kpp_pyro.writes.interface import Encoding

FEATURES, SMALLEST = 24, 0.05
LAYOUTS = {1: MemoryLayout(2, 12, 24, 4, 4), 2: MemoryLayout(2, 12, 24, 4, 4, reads=2)}  # 18 blocks of 32 scalars
both_reads = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=["R=1", "R=2"])
some_codes = pytest.mark.parametrize("signs", [1, 4, 16])


def allocate(layout, signs):
    return AllocateWrite(layout, FEATURES, SMALLEST, code=SignCode(signs)).double()


def allocate_by_content(layout, signs):
    return AllocateByContentWrite(layout, FEATURES, SMALLEST, code=SignCode(signs)).double()


def feed_forward(layout, signs):
    keys = MeanFieldPosterior(FEATURES, torch.Size([layout.reads, 3]))
    return FeedForwardWrite(layout, FEATURES, SMALLEST, keys, code=SignCode(signs)).double()


every_write = pytest.mark.parametrize("make", [allocate, allocate_by_content, feed_forward])


def features(episodes, images):
    return torch.randn(episodes, images, FEATURES, dtype=torch.float64)


def signs_of(write, episodes, images):
    """An encoding whose signs are coins."""
    loc = 2.0 * torch.randint(2, (episodes, images, write.latent_size)).double() - 1
    return Encoding(features(episodes, images), loc, torch.ones_like(loc))


def damaged(encoding, share):
    turned = torch.rand_like(encoding.latent_loc) < share
    return Encoding(
        encoding.features,
        torch.where(turned, -encoding.latent_loc, encoding.latent_loc),
        encoding.latent_scale,
    )


def own_blocks(write, encoding, dtype=torch.float64):
    key = write.key_posterior(encoding).mode.to(dtype)
    return read(write(encoding).to(dtype), key, write.addressing)


@both_reads
@some_codes
@every_write
def test_a_read_at_an_images_own_key_says_exactly_its_signs(make, signs, layout):
    write = make(layout, signs)
    assert write.latent_size == signs * layout.read_scalars
    encoding = write.encode(features(3, layout.blocks // layout.reads))
    written = encoding.latent_loc.sign()
    torch.testing.assert_close(encoding.latent_loc, written, atol=1e-12, rtol=0)
    reading = IdentityReading(layout, SMALLEST, write.code).double()
    assert reading.latent_size == write.latent_size
    for dtype in (torch.float64, torch.float32):  # interpolation rounds, but not as far as the last sign
        loc, _ = reading(own_blocks(write, encoding, dtype))
        assert torch.equal(loc.double(), written)


@every_write
def test_a_memory_of_signs_holds_levels_between_minus_and_plus_one_and_zero_where_nothing_was_written(make):
    layout = LAYOUTS[1]
    write = make(layout, 4)
    encoding = write.encode(features(2, 5))
    held = cut_blocks(write(encoding).squeeze(1), layout).flatten(2)  # (B, N, S)
    written = held.any(-1)
    assert written.sum(-1).tolist() == [5, 5]
    steps = (held[written] + 1) * 8  # odd halves of a step of 2 / 16
    torch.testing.assert_close(steps - 0.5, (steps - 0.5).round(), atol=1e-12, rtol=0)
    assert held.abs().max() < 1


@every_write
def test_writing_signs_has_no_gradient_of_contents_but_the_latents_themselves_have(make):
    write, given = make(LAYOUTS[1], 4), features(2, 5)
    encoding = write.encode(given)
    write.to_content.zero_grad()
    encoding.latent_loc.square().sum().backward(retain_graph=True)
    assert all(parameter.grad.abs().max() > 0 for parameter in write.to_content.parameters())
    write.zero_grad()
    memory = write(encoding)
    if memory.requires_grad:  # through claims
        memory.sum().backward()
    assert all(parameter.grad is None for parameter in write.to_content.parameters())


@both_reads
@every_write
def test_cues_with_some_signs_turned_over_are_found_in_the_blocks_of_their_own(make, layout):
    write = make(layout, 4)
    encoding = signs_of(write, 3, layout.blocks // layout.reads)
    memory, cues = write(encoding), damaged(encoding, 0.2)
    probs = write.match(cues, memory)
    own = write.blocks_of(encoding)
    assert probs.gather(-1, own.unsqueeze(-1)).min() > 0.999


def test_the_match_of_signs_is_the_posterior_of_the_block_by_the_signs_that_differ():
    layout = MemoryLayout(1, 2, 6, 2, 2)  # 3 blocks of 4 scalars, of 12 signs
    write, least = allocate(layout, 3), 0.3
    written, cues = signs_of(write, 2, 3), signs_of(write, 2, 4)
    probs = write.match(cues, write(written)).squeeze(-2)
    different = (cues.latent_loc.unsqueeze(2) != written.latent_loc.unsqueeze(1)).double().sum(-1)  # (B, T, N)
    variance = (4 * different.amin(-1, keepdim=True) / 12).clamp(min=least**2)  # of a sign turned over, 4
    torch.testing.assert_close(probs, (-4 * different / (2 * variance)).softmax(-1))


def test_a_block_that_nobody_wrote_to_is_nobodys_however_alike_the_signs_of_zero_are():
    layout = LAYOUTS[1]
    write = allocate(layout, 4)
    memory = write(signs_of(write, 1, 3))
    loc = SignCode(4).unpack(torch.zeros(1, 1, layout.read_scalars, dtype=torch.float64))  # just what zero unpacks to
    probs = write.match(Encoding(features(1, 1), loc, torch.ones_like(loc)), memory)
    assert not probs[..., 3:].any()


@some_codes
def test_a_reading_of_signs_says_the_signs_of_each_scalar_and_a_scale_for_each_sign(signs):
    layout = LAYOUTS[2]
    reading = IdentityReading(layout, SMALLEST, SignCode(signs)).double()
    blocks = 2 * torch.rand(4, 3, layout.reads, *layout.block_shape, dtype=torch.float64) - 1
    with torch.no_grad():
        reading.raw_scale.normal_()
    loc, scale = reading(blocks)
    assert loc.shape == scale.shape == (4, 3, signs * layout.read_scalars)
    first = loc.unflatten(-1, (-1, signs))[..., 0]  # the first sign of a scalar is its own
    assert torch.equal(first, torch.where(blocks.flatten(-4) >= 0, 1.0, -1.0).double())
    assert torch.equal(scale[0, 0], scale[3, 2]) and (scale > SMALLEST).all()
    assert len(scale[0, 0].unique()) == reading.latent_size


def test_by_content_blocks_are_chosen_by_signs_whatever_the_order_of_the_images():
    write = allocate_by_content(LAYOUTS[1], 4)
    encoding = signs_of(write, 2, 9)
    order = torch.randperm(9)
    permuted = Encoding(*(part[:, order] for part in (encoding.features, encoding.latent_loc, encoding.latent_scale)))
    assert torch.equal(write.blocks_of(permuted), write.blocks_of(encoding)[:, order])
    torch.testing.assert_close(write(permuted), write(encoding), atol=1e-12, rtol=0)
