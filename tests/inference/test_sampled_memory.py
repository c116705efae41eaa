"""Memories that are sampled from their prior and continued, against the prior's own densities, in float64."""

from __future__ import annotations

import re

import pytest
import torch

from inference.trained_memory import Memory, TrainedMemory
from kpp_pyro.distributions.block_memory import memory_of, written_blocks
from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import cut_blocks
from tests.programs import IMAGE_SHAPE, random_episodes, small_pair

PRIORS = ("standard_normal", "autoregressive")
every_prior = pytest.mark.parametrize("prior", PRIORS)
READ = {"memory_guide": "normal", "latent_prior": "read", "read_order": "sequence", "episode_length": 5}
BLOCKS, SIZE = 16, 8  # of a memory of 2 x 8 x 8 scalars in blocks of 2 x 2 x 2
B, T = 3, 5


def opened(prior="autoregressive", **changes):
    """A small pair whose learned prior, if any, is far from the standard normal that it starts with."""
    pair = small_pair(memory_prior=prior, **READ, **changes).eval()
    generator = torch.Generator().manual_seed(4)
    for parameter in pair.model.block_prior.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return TrainedMemory(pair.model, pair.guide)


def blocks_of(memories, memory, number):
    return written_blocks(memory.value, memories.addressing.layout, number)


def drawn_by_hand(memories, blocks, number, seed, temperature=1.0):
    """Blocks (..., n, S), and as many more that are drawn after them by the prior's own distributions."""
    torch.manual_seed(seed)
    for _ in range(number):
        block = memories.model.block_prior.next_block(blocks, temperature).sample()
        blocks = torch.cat([blocks, block.unsqueeze(-2)], -2)
    return blocks


@every_prior
def test_the_blocks_of_a_sampled_memory_are_drawn_one_given_those_before(prior):
    memories = opened(prior)
    memory = memories.sample_memory(3, B, seed=1)
    assert memory.shape == (B, 2, 8, 8)
    assert not cut_blocks(memory.value, memories.addressing.layout)[:, 3:].any()
    expected = drawn_by_hand(memories, torch.zeros(B, 0, SIZE, dtype=torch.float64), 3, seed=1)
    torch.testing.assert_close(blocks_of(memories, memory, 3), expected)


@every_prior
def test_a_low_temperature_draws_nearer_to_what_is_most_probable(prior):
    memories = opened(prior)
    none = torch.zeros(B, 0, SIZE, dtype=torch.float64)
    for temperature in (0.3, 1.0):
        blocks = blocks_of(memories, memories.sample_memory(3, B, seed=1, temperature=temperature), 3)
        torch.testing.assert_close(blocks, drawn_by_hand(memories, none, 3, 1, temperature))
    memory = memories.write(random_episodes(2, T))
    following = blocks_of(memories, memories.extend(memory, 1, None, 2, 0.3), T + 1)
    torch.testing.assert_close(following, drawn_by_hand(memories, blocks_of(memories, memory, T), 1, 2, 0.3))
    if prior == "standard_normal":
        assert blocks_of(memories, memories.sample_memory(16, 50, 1, 0.3), 16).std() == pytest.approx(0.3, rel=0.05)


@every_prior
def test_what_follows_a_memory_is_drawn_given_its_blocks(prior):
    memories = opened(prior)
    memory = memories.write(random_episodes(1, T)[0])
    following = memories.extend(memory, samples=7, seed=2)
    given = blocks_of(memories, memory, T).expand(7, -1, -1)
    assert not cut_blocks(following.value, memories.addressing.layout)[:, T + 1 :].any()
    torch.testing.assert_close(blocks_of(memories, following, T + 1), drawn_by_hand(memories, given, 1, seed=2))


def test_what_follows_depends_on_the_memory_only_where_the_prior_says_so():
    for prior in PRIORS:
        memories = opened(prior)
        one, other = (memories.write(random_episodes(1, T, seed)[0]) for seed in (1, 2))
        blocks = [blocks_of(memories, memories.extend(of), T + 1)[T] for of in (one, other)]
        assert torch.equal(*blocks) == (prior == "standard_normal")


@every_prior
def test_an_empty_memory_goes_on_as_a_new_one_begins(prior):
    memories = opened(prior)
    for batch in ((), (B,)):
        empty = Memory(torch.zeros(*batch, 2, 8, 8, dtype=torch.float64), memories.fingerprint)
        sampled = memories.sample_memory(T, *batch, seed=3)
        assert torch.equal(memories.extend(empty, T, seed=3).value, sampled.value)
        assert sampled.author == memories.fingerprint and sampled.shape == (*batch, 2, 8, 8)
        torch.manual_seed(3)
        drawn = memories.model.memory_prior(T).sample(batch or (1,))
        assert torch.equal(drawn.view_as(sampled.value), sampled.value)


@every_prior
def test_more_blocks_begin_with_those_of_fewer_and_the_seed_decides(prior):
    memories = opened(prior)
    memory = memories.write(random_episodes(B, T))
    state = torch.get_rng_state()
    one, three, again = (memories.extend(memory, images, seed=5) for images in (1, 3, 3))
    reseeded = memories.extend(memory, 3, seed=6)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(blocks_of(memories, three, T + 1), blocks_of(memories, one, T + 1))
    assert torch.equal(three.value, again.value) and three.shape == (B, 2, 8, 8)
    assert not torch.isclose(
        blocks_of(memories, reseeded, T + 3)[:, T:], blocks_of(memories, three, T + 3)[:, T:]
    ).any()


def test_each_of_several_memories_goes_on_by_itself():
    memories = opened()
    memory = memories.write(random_episodes(2, T))
    blocks = blocks_of(memories, memories.extend(memory, seed=4), T + 1)
    torch.testing.assert_close(blocks, drawn_by_hand(memories, blocks_of(memories, memory, T), 1, seed=4))


@every_prior
def test_written_blocks_are_decoded_in_order(prior):
    memories = opened(prior)
    memory = memories.sample_memory(T, B)
    found = memories.read_written(memory)
    latents = blocks_of(memories, memory, T)  # the latent is what is read
    torch.testing.assert_close(found.latents, latents)
    torch.testing.assert_close(found.images, memories.model.image_likelihood(latents).mean.detach())
    torch.testing.assert_close(memories.inspect(memory).images[:, :T], found.images)
    single = memories.read_written(memory[1])
    torch.testing.assert_close(single.images, found.images[1])
    assert single.keys.shape == (T, 1, 3) and single.images.shape == (T, *IMAGE_SHAPE)


def test_written_images_are_read_back_in_order_without_a_prior_too():
    pair, episodes = small_pair("allocate"), random_episodes(B, T)
    memories = TrainedMemory(pair.model, pair.guide)
    found = memories.read_written(memories.write(episodes))
    torch.testing.assert_close(found.latents, pair.guide.encode(episodes).latent_loc.detach())  # what is written


def test_several_blocks_of_an_image_are_read_together():
    pair = small_pair("allocate", reads=2)
    memories = TrainedMemory(pair.model, pair.guide)
    memory = memories.write(random_episodes(B, T))
    assert memories.read_written(memory).keys.shape == (B, T, 2, 3)
    torch.testing.assert_close(memories.read_written(memory).images, memories.inspect(memory).images[:, :T])


def test_a_flat_prior_cannot_be_sampled():
    pair = small_pair()
    memories = TrainedMemory(pair.model, pair.guide)
    memory = memories.write(random_episodes(1, T)[0])
    sentence = "^memory prior: expected one that can be sampled, such as autoregressive, found flat$"
    for use in (lambda: memories.sample_memory(T), lambda: memories.extend(memory)):
        with pytest.raises(InputError, match=sentence):
            use()


@pytest.mark.parametrize("model", ["dynamic_kanerva_machine", "kanerva_machine", "pseudo_inverse_memory"])
def test_a_memory_without_blocks_has_none_to_follow(model):
    pair = small_pair(model=model, memory_rows=6, latent_size=5, latent_context="image")
    memories = TrainedMemory(pair.model, pair.guide)
    memory = memories.write(random_episodes(1, T)[0])
    uses = (
        lambda: memories.sample_memory(T),
        lambda: memories.extend(memory),
        lambda: memories.read_written(memory),
    )
    for use in uses:
        with pytest.raises(InputError, match=r"Model: expected a memory of blocks, found one without$"):
            use()


def test_a_full_memory_cannot_go_on():
    memories = opened()
    full = memories.sample_memory(BLOCKS)
    assert memories.read_written(full).images.shape == (BLOCKS, *IMAGE_SHAPE)
    assert memories.extend(memories.sample_memory(BLOCKS - 1)).shape == full.shape
    for use, free, images in (
        (lambda: memories.extend(full), 0, 1),
        (lambda: memories.extend(memories.sample_memory(BLOCKS - 2, B), 3), 2, 3),
        (lambda: memories.sample_memory(BLOCKS + 1), BLOCKS, BLOCKS + 1),
    ):
        where = f"a memory with {BLOCKS - free} of its {BLOCKS} blocks written"
        with pytest.raises(InputError, match=f"^images: expected at most {free} more for {where}, found {images}$"):
            use()


def test_what_is_no_memory_in_order_is_refused():
    memories = opened()
    memory = memories.sample_memory(T, 2)
    blocks = blocks_of(memories, memory, T).clone()
    blocks[0, 1] = 0  # a hole
    holed = Memory(memory_of(blocks, memories.addressing.layout), memory.author)
    for use in (lambda: memories.extend(holed), lambda: memories.read_written(holed)):
        with pytest.raises(InputError, match=r"^memories: expected equally many written blocks in each, found others"):
            use()
    with pytest.raises(InputError, match=r"^memory: expected one with written blocks, found none$"):
        memories.read_written(Memory(torch.zeros_like(memory.value), memory.author))
    foreign = Memory(memory.value, "me")
    for use in (lambda: memories.extend(foreign), lambda: memories.read_written(foreign)):
        with pytest.raises(InputError, match=r"^memory: expected one written by this model"):
            use()
    with pytest.raises(InputError, match=r"^samples: expected None for 2 memories, found 3$"):
        memories.extend(memory, samples=3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"images": 0}, "images: expected at least 1, found 0"),
        ({"images": 1.5}, "images: expected a whole number, found 1.5"),
        ({"memories": 0}, "memories: expected at least 1, found 0"),
        ({"samples": 0}, "samples: expected at least 1, found 0"),
        ({"seed": -1}, "seed: expected at least 0, found -1"),
        ({"temperature": 0.0}, "temperature: expected more than 0.0, found 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, sentence):
    memories = opened()
    memory = memories.sample_memory(T)
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        if "samples" not in arguments:
            memories.sample_memory(**{"images": 2, **arguments})
        if "memories" not in arguments:
            memories.extend(memory, **arguments)
