"""A memory at work, against encoder, key, read and decoder put together by hand, for both writes and in float64."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch

from inference.trained_memory import Memory, Read, TrainedMemory
from kpp_pyro.distributions.block_key import BlockKey
from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import cut_blocks, read
from tests.exact import TINY_SHAPE, tiny_episodes, tiny_program
from tests.programs import IMAGE_SHAPE, WRITES, random_episodes, small_pair

both_writes = pytest.mark.parametrize("write", WRITES)
THROUGH = ("keys", "latents")
SIGMAS = 4.5  # of a mean over n independent draws, by which it may be off
B, T = 3, 5


def opened(write="allocate", **changes):
    program = small_pair(write, **changes)
    return TrainedMemory(program.model, program.guide)


def some_cues(seed=2):
    """Grey images, unlike any that was written."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(B, T, *IMAGE_SHAPE, dtype=torch.float64, generator=generator)


def some_mask(seed=3):
    """Of half of the pixels, but of none of the first image of each episode."""
    mask = torch.rand(B, T, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[:, 0] = False
    return mask


def read_by_hand(memories, memory, keys):
    """Read memories (B, C_m, H_m, W_m) through keys (B, N, R, 3)."""
    return decoded_by_hand(memories, read(memory.value.unsqueeze(1), keys, memories.model.addressing), keys)


def decoded_by_hand(memories, blocks, keys):
    latents = memories.model.reading(blocks)[0]
    return Read(keys=keys, latents=latents, images=memories.model.decoder(latents).sigmoid())


@torch.no_grad()
def recall_by_hand(memories, memory, cues):
    """Through the only key there is (learned maps), or every block in turn, as probable as it is (`allocate`)."""
    write, addressing, value = memories.guide.write, memories.model.addressing, memory.value.unsqueeze(1)
    encoding = write.encode(memories.guide.encoder(cues))
    posterior = write.key_posterior(encoding, value)
    if not isinstance(posterior, BlockKey):
        return read_by_hand(memories, memory, posterior.mode)
    probs, blocks = write.match(encoding, value), 0
    for n, key in enumerate(addressing.key_grid(addressing.layout.rows, addressing.layout.columns).double()):
        there = read(value, key.expand(*probs.shape[:2], -1, -1), addressing)  # (B, T, R, C_m, h, w)
        blocks = blocks + probs[..., n, None, None, None] * there
    return decoded_by_hand(memories, blocks, posterior.mode)


def contents(memories, episodes):
    """Locations of q(z | x), which is what `allocate` writes."""
    return memories.guide.write.encode(memories.guide.encoder(episodes)).latent_loc.detach()


def assert_same_read(found, expected, **tolerances):
    for name in ("keys", "latents", "images"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **tolerances)


def part(found, index):
    return Read(keys=found.keys[index], latents=found.latents[index], images=found.images[index])


def spied(memories):
    """What the encoder is shown, from now on."""
    shown = []
    memories.guide.encoder.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].clone()))
    return shown


# Writing and reading


@both_writes
@torch.no_grad()
def test_the_memory_is_the_write_of_the_encodings(write):
    memories, episodes = opened(write), random_episodes(B, T)
    memory = memories.write(episodes)
    expected = memories.guide.write(memories.guide.write.encode(memories.guide.encoder(episodes)))
    assert memory.value.shape == (B, *memories.model.memory_shape)
    assert torch.equal(memory.value, expected.squeeze(1))
    assert memory.author == memories.fingerprint


@both_writes
@pytest.mark.parametrize("reads", [1, 2])
def test_a_step_of_recall_is_encode_locate_read_decode(write, reads):
    memories, cues = opened(write, reads=reads), some_cues()
    memory = memories.write(random_episodes(B, T))
    (found,) = memories.recall(memory, cues)
    expected = recall_by_hand(memories, memory, cues)
    assert found.keys.shape == (B, T, reads, 3) and found.images.shape == cues.shape
    assert_same_read(found, expected)
    torch.testing.assert_close(memories.locate(memory, cues), expected.keys)
    assert_same_read(memories.read(memory, expected.keys), read_by_hand(memories, memory, expected.keys))
    assert not any(tensor.requires_grad for tensor in (memory.value, found.keys, found.latents, found.images))


@both_writes
def test_a_step_of_recall_of_a_tiny_program(write):
    program = tiny_program(write)
    memories, episodes = TrainedMemory(program.model, program.guide), tiny_episodes()
    memory = memories.write(episodes)
    (found,) = memories.recall(memory, episodes)
    assert memories.image_shape == TINY_SHAPE
    assert_same_read(found, recall_by_hand(memories, memory, episodes))
    again = memories.read(memory, found.keys)
    blocks = read(memory.value.unsqueeze(1), found.keys, program.model.addressing)
    torch.testing.assert_close(again.latents, blocks.flatten(2))  # p(z | M, y) is centred on the one scalar read


@both_writes
def test_the_steps_feed_back(write):
    memories, cues = opened(write), some_cues()
    memory = memories.write(random_episodes(B, T))
    steps = memories.recall(memory, cues, steps=4)
    assert len(steps) == 4
    for found in steps:
        assert_same_read(found, recall_by_hand(memories, memory, cues))
        cues = found.images
    for fewer in (1, 2):
        again = memories.recall(memory, some_cues(), steps=fewer)
        assert [torch.equal(one.images, other.images) for one, other in zip(again, steps, strict=False)] == [
            True
        ] * fewer


@pytest.mark.parametrize("reads", [1, 2, 3])
def test_an_image_is_recalled_from_its_own_block(reads):
    memories, episodes = opened(reads=reads), random_episodes(B, T)  # of 15 blocks at most, of 16
    guide, model = memories.guide, memories.model
    memory = memories.write(episodes)
    (found,) = memories.recall(memory, episodes)
    own = guide.key_posterior(guide.encode(episodes)).mode  # q(y | X), which knows where each image was put
    torch.testing.assert_close(found.keys, own)
    written, sure = contents(memories, episodes), {"atol": 1e-3, "rtol": 1e-3}  # other blocks weigh next to nothing
    torch.testing.assert_close(found.latents, written, **sure)
    torch.testing.assert_close(found.images, model.image_likelihood(written).mean.detach(), **sure)
    torch.testing.assert_close(found.images, memories.autoencode(episodes)[0].images, **sure)
    boxes = model.addressing.boxes(found.keys)[..., :2]
    left, top = 2 * (guide.write.own_blocks(T) % 4), 2 * (guide.write.own_blocks(T) // 4)
    torch.testing.assert_close(boxes, torch.stack([left, top], -1).double().expand(B, -1, -1, -1))


# One memory and several


@both_writes
def test_several_memories_are_each_read_by_itself(write):
    memories, episodes, cues, mask = opened(write, reads=2), random_episodes(B, T), some_cues(), some_mask()
    memory = memories.write(episodes)
    one, other = cues[:, 0], cues[:, 1]
    together = {
        "recall": memories.recall(memory, cues, 3)[-1],
        "complete": memories.complete(memory, cues, mask, 3)[-1],
        "inspect": memories.inspect(memory),
        **{through: memories.interpolate(memory, one, other, 4, through) for through in THROUGH},
    }
    for b in range(B):
        single = memories.write(episodes[b])
        assert single.value.shape == memories.model.memory_shape
        torch.testing.assert_close(single.value, memory[b].value)
        alone = {
            "recall": memories.recall(single, cues[b], 3)[-1],
            "complete": memories.complete(single, cues[b], mask[b], 3)[-1],
            "inspect": memories.inspect(single),
            **{through: memories.interpolate(single, one[b], other[b], 4, through) for through in THROUGH},
        }
        for name, found in alone.items():
            assert_same_read(part(together[name], b), found)
        torch.testing.assert_close(memories.locate(memory, cues)[b], memories.locate(single, cues[b]))
        batch_of_one = memories.recall(memory[b : b + 1], cues[b : b + 1], 3)[-1]
        assert_same_read(part(batch_of_one, 0), alone["recall"])
        expected = memories.autoencode(cues, 2)[-1]
        found = memories.autoencode(cues[b], 2)[-1]
        torch.testing.assert_close(found.images, expected.images[b])
        torch.testing.assert_close(found.latents, expected.latents[b])


@both_writes
def test_cues_are_recalled_each_by_itself_and_in_any_order(write):
    memories, cues = opened(write), some_cues()
    memory = memories.write(random_episodes(B, T))
    found, order = memories.recall(memory, cues, 2)[-1], torch.tensor([3, 0, 4, 1, 2])
    assert_same_read(memories.recall(memory, cues[:, order], 2)[-1], part(found, (slice(None), order)))
    assert_same_read(memories.recall(memory, cues[:, 2:3], 2)[-1], part(found, (slice(None), slice(2, 3))))


# Completion


@both_writes
def test_without_missing_pixels_completion_is_recall(write):
    memories, cues = opened(write), some_cues()
    memory = memories.write(random_episodes(B, T))
    none = torch.zeros_like(cues, dtype=torch.bool)
    for found, expected in zip(memories.complete(memory, cues, none, 3), memories.recall(memory, cues, 3), strict=True):
        assert_same_read(found, expected, atol=0, rtol=0)


@both_writes
def test_known_pixels_are_put_back_before_every_read(write):
    memories, cues, mask = opened(write), some_cues(), some_mask()
    memory = memories.write(random_episodes(B, T))
    shown = spied(memories)
    reads = memories.complete(memory, cues, mask, steps=3)
    assert len(shown) == len(reads) == 3
    means = torch.stack(
        [image[~hidden].mean() for image, hidden in zip(cues.flatten(0, 1), mask.flatten(0, 1), strict=True)]
    )
    torch.testing.assert_close(shown[0], cues.where(~mask, means.view(B, T, 1, 1, 1)))
    for cue, found in zip(shown[1:], reads, strict=False):
        expected = cues.where(~mask, found.images)
        expected[:, 0] = found.images[:, 0]  # which misses nothing, so that all of it is in doubt
        assert torch.equal(cue, expected)
        assert torch.equal(cue[:, 1:][~mask[:, 1:]], cues[:, 1:][~mask[:, 1:]])
    for cue, found in zip(shown[:3], reads, strict=True):
        assert_same_read(found, recall_by_hand(memories, memory, cue))


@both_writes
@pytest.mark.parametrize("filling", [0.0, 1.0, 7.0, math.nan, math.inf])
def test_what_missing_pixels_hold_does_not_matter(write, filling):
    memories, cues, mask = opened(write), some_cues(), some_mask()
    memory = memories.write(random_episodes(B, T))
    expected = memories.complete(memory, cues, mask, 3)
    for found, step in zip(memories.complete(memory, cues.masked_fill(mask, filling), mask, 3), expected, strict=True):
        assert_same_read(found, step, atol=0, rtol=0)


def test_where_everything_is_missing_all_cues_are_alike():
    memories, cues = opened("feed_forward"), some_cues()
    memory = memories.write(random_episodes(B, T))
    found = memories.complete(memory, cues, torch.ones_like(cues, dtype=torch.bool), 2)[-1]
    expected = memories.recall(memory, torch.zeros_like(cues), 2)[-1]
    assert_same_read(found, expected, atol=0, rtol=0)


# Generation


@both_writes
def test_the_seed_decides_what_is_generated(write):
    memories = opened(write)
    memory = memories.write(random_episodes(B, T))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(memories.generate(memory, 4))
    assert_same_read(drawn[0], drawn[1], atol=0, rtol=0)
    for name in ("keys", "latents", "images"):
        assert not torch.equal(getattr(drawn[0], name), getattr(drawn[2], name))


@both_writes
@torch.no_grad()
def test_draws_follow_the_prior(write):
    memories, n = opened(write, reads=2), 2000
    memory = memories.write(random_episodes(B, T))
    drawn = memories.generate(memory, n)
    assert drawn.keys.shape == (B, n, 2, 3) and drawn.images.shape == (B, n, *IMAGE_SHAPE)
    model = memories.model
    loc, scale = model.reading(read(memory.value.unsqueeze(1), drawn.keys, model.addressing))
    for normal in (drawn.keys.flatten(2), (drawn.latents - loc) / scale):
        assert normal.mean(1).abs().max() < SIGMAS / math.sqrt(n)
        assert (normal.var(1) - 1).abs().max() < SIGMAS * math.sqrt(2 / n)
        for b in range(B):
            correlations = torch.corrcoef(normal[b].mT) - torch.eye(normal.shape[-1])
            assert correlations.abs().max() < SIGMAS / math.sqrt(n)
        assert (normal < -1).double().mean() == pytest.approx(0.158655, abs=SIGMAS * math.sqrt(0.1335 / normal.numel()))
    torch.testing.assert_close(drawn.images, model.decoder(drawn.latents).sigmoid())


def test_draws_of_one_memory_have_no_axis_of_memories():
    memories = opened()
    drawn = memories.generate(memories.write(random_episodes(B, T))[1], 7)
    assert drawn.keys.shape == (7, 1, 3) and drawn.latents.shape == (7, 8) and drawn.images.shape == (7, *IMAGE_SHAPE)


@both_writes
def test_cleaned_draws_are_recalled_draws(write):
    memories = opened(write)
    memory = memories.write(random_episodes(B, T))
    torch.manual_seed(4)
    drawn = memories.generate(memory, 6)
    torch.manual_seed(4)
    cleaned = memories.generate(memory, 6, steps=3)
    assert_same_read(cleaned, memories.recall(memory, drawn.images, 3)[-1], atol=0, rtol=0)


# Interpolation


@both_writes
@pytest.mark.parametrize("through", THROUGH)
@pytest.mark.parametrize("n", [2, 5])
def test_an_interpolation_is_a_straight_line_between_two_recalls(write, through, n):
    memories, episodes = opened(write, reads=2), random_episodes(B, T)
    memory = memories.write(episodes)
    found = memories.interpolate(memory, episodes[:, 0], episodes[:, 3], n, through)
    ends = memories.recall(memory, episodes[:, [0, 3]])[0]
    assert_same_read(part(found, (slice(None), [0, -1])), ends)
    for i in range(n):
        share = i / (n - 1)
        torch.testing.assert_close(found.keys[:, i], (1 - share) * ends.keys[:, 0] + share * ends.keys[:, 1])
        if through == "latents":
            latents = (1 - share) * ends.latents[:, 0] + share * ends.latents[:, 1]
            torch.testing.assert_close(found.latents[:, i], latents)
    if through == "keys":
        assert_same_read(found, memories.read(memory, found.keys))
    torch.testing.assert_close(found.images, memories.model.decoder(found.latents).sigmoid().detach())


@pytest.mark.parametrize("through", THROUGH)
def test_an_interpolation_can_be_walked_both_ways(through):
    memories, cues = opened("feed_forward"), some_cues()
    memory = memories.write(random_episodes(B, T))
    there = memories.interpolate(memory, cues[:, 0], cues[:, 1], 4, through)
    back = memories.interpolate(memory, cues[:, 1], cues[:, 0], 4, through)
    assert_same_read(part(back, (slice(None), [3, 2, 1, 0])), there)


# Inspection


@pytest.mark.parametrize("reads", [1, 2, 3])
@torch.no_grad()
def test_inspection_decodes_every_block_of_the_memory(reads):
    memories = opened(reads=reads)
    memory = memories.write(random_episodes(B, T))
    layout, model = memories.model.addressing.layout, memories.model
    blocks = cut_blocks(memory.value, layout)  # (B, N, C_m, h, w)
    found = memories.inspect(memory)
    cells = [[(first + r) % layout.blocks for r in range(reads)] for first in range(0, layout.blocks, reads)]
    assert found.images.shape == (B, len(cells), *IMAGE_SHAPE)
    assert {cell for group in cells for cell in group} == set(range(layout.blocks))
    for place, group in enumerate(cells):
        latents = model.reading(blocks[:, group])[0]
        torch.testing.assert_close(found.latents[:, place], latents)
        torch.testing.assert_close(found.images[:, place], model.decoder(latents).sigmoid())


@pytest.mark.parametrize("reads", [1, 2, 3])
def test_inspection_finds_what_was_written_in_the_order_of_writing(reads):
    memories, episodes = opened(reads=reads), random_episodes(B, T)
    found = memories.inspect(memories.write(episodes))
    torch.testing.assert_close(found.latents[:, :T], contents(memories, episodes))


# Without a memory


@both_writes
@torch.no_grad()
def test_autoencoding_needs_no_memory(write):
    memories, estimate = opened(write), some_cues()
    found = memories.autoencode(estimate, steps=3)
    assert len(found) == 3
    for step in found:
        latents = contents(memories, estimate)
        estimate = memories.model.decoder(latents).sigmoid()
        torch.testing.assert_close(step.latents, latents)
        torch.testing.assert_close(step.images, estimate)


# Identity


def test_the_fingerprint_changes_with_every_parameter_and_only_then():
    program = small_pair()
    fingerprint = TrainedMemory(program.model, program.guide).fingerprint
    twin = copy.deepcopy(program)
    assert TrainedMemory(twin.model, twin.guide).fingerprint == fingerprint
    seen = {fingerprint}
    parameters = [*twin.model.named_parameters(), *twin.guide.named_parameters()]
    assert len(parameters) > 10
    for _, parameter in parameters:
        before = parameter.data.clone()
        last = parameter.data.view(-1)[-1:]
        last.copy_(torch.nextafter(last, last + 1))
        seen.add(TrainedMemory(twin.model, twin.guide).fingerprint)
        parameter.data.copy_(before)
    assert len(seen) == 1 + len(parameters)
    assert TrainedMemory(twin.model, twin.guide).fingerprint == fingerprint


@both_writes
def test_a_saved_memory_is_read_by_its_model_and_by_no_other(write, tmp_path):
    program, cues, path = small_pair(write), some_cues(), tmp_path / "memory.safetensors"
    memories = TrainedMemory(program.model, program.guide)
    for memory, shown in ((memories.write(random_episodes(B, T)), cues), (memories.write(some_cues(8)[0]), cues[0])):
        memory.save(path)
        twin = copy.deepcopy(program)
        loaded = TrainedMemory(twin.model, twin.guide).load(path)
        assert torch.equal(loaded.value, memory.value) and loaded.author == memory.author
        expected = memories.recall(memory, shown, 2)[-1]
        assert_same_read(memories.recall(loaded, shown, 2)[-1], expected, atol=0, rtol=0)
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: expected one written by this model .* another"):
            opened(write, seed=1).load(path)
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: expected memories of shape \(3, 8, 8\)"):
            opened(write, memory_channels=3).load(path)


FOREIGN = {
    "recall": lambda memories, memory: memories.recall(memory, some_cues()),
    "complete": lambda memories, memory: memories.complete(memory, some_cues(), some_mask()),
    "locate": lambda memories, memory: memories.locate(memory, some_cues()),
    "read": lambda memories, memory: memories.read(memory, torch.zeros(B, T, 1, 3)),
    "generate": lambda memories, memory: memories.generate(memory, 3),
    "interpolate": lambda memories, memory: memories.interpolate(memory, some_cues()[:, 0], some_cues()[:, 1], 3),
    "inspect": lambda memories, memory: memories.inspect(memory),
}


@pytest.mark.parametrize("use", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_memory_of_another_model_is_refused(use):
    memories, episodes = opened(), random_episodes(B, T)
    own = memories.write(episodes)
    use(memories, own)
    another, handmade = opened(seed=1).write(episodes), Memory(own.value, "")
    assert another.value.shape == own.value.shape
    for memory, author in ((another, another.author[:12]), (handmade, "unknown"), (Memory(own.value, "me"), "me")):
        expected = f"memory: expected one written by this model ({own.author[:12]}), found one of another ({author})"
        with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
            use(memories, memory)
    for shape in ((B, 2, 8, 4), (B, 3, 8, 8), (8, 8), (B, 1, 2, 8, 8)):
        expected = re.escape(f"memory: expected memories of shape (2, 8, 8) of this model, found {shape}")
        with pytest.raises(InputError, match=f"^{expected}$"):
            use(memories, Memory(torch.zeros(shape, dtype=torch.float64), own.author))


# Precision and chance


@both_writes
def test_images_of_another_precision_become_the_models(write):
    program, episodes, cues = small_pair(write), random_episodes(B, T), some_cues()
    memories = TrainedMemory(program.model.float(), program.guide.float())
    memory = memories.write(episodes.float())
    assert memory.value.dtype == torch.float32 and torch.equal(memories.write(episodes).value, memory.value)
    found = memories.complete(memory, cues, some_mask(), 2)[-1]
    assert_same_read(found, memories.complete(memory, cues.float(), some_mask(), 2)[-1], atol=0, rtol=0)
    assert_same_read(memories.read(memory, found.keys.double()), memories.read(memory, found.keys), atol=0, rtol=0)
    line = memories.interpolate(memory, cues[:, 0], cues[:, 1], 3)
    for tensor in (found.keys, found.images, line.images, memories.inspect(memory).images):
        assert tensor.dtype == torch.float32


@both_writes
def test_nothing_is_left_to_chance_but_generation(write):
    memories, episodes, cues = opened(write), random_episodes(B, T), some_cues()
    torch.manual_seed(1)
    memory = memories.write(episodes)
    torch.manual_seed(2)
    assert torch.equal(memories.write(episodes).value, memory.value)
    before = torch.get_rng_state()
    memories.recall(memory, cues, 2)
    memories.complete(memory, cues, some_mask(), 2)
    memories.locate(memory, cues)
    memories.read(memory, torch.zeros(B, T, 1, 3))
    for through in THROUGH:
        memories.interpolate(memory, cues[:, 0], cues[:, 1], 3, through)
    memories.inspect(memory)
    memories.autoencode(cues, 2)
    assert torch.equal(torch.get_rng_state(), before)


# Refusals


@pytest.mark.parametrize(
    "shape", [(B, T, 1, 16, 15), (T, 1, 8, 16), (B, T, 3, 16, 16), (1, 16, 16), (1, B, T, 1, 16, 16), (0, 1, 16, 16)]
)
def test_images_of_another_size_are_refused(shape):
    memories, images = opened(), torch.zeros(shape, dtype=torch.float64)
    memory, mask = memories.write(random_episodes(B, T)), torch.zeros(shape, dtype=torch.bool)
    for name, use in (
        ("images", memories.write),
        ("images", memories.autoencode),
        ("cues", lambda images: memories.recall(memory, images)),
        ("cues", lambda images: memories.locate(memory, images)),
        ("cues", lambda images: memories.complete(memory, images, mask)),
    ):
        sentence = f"{name}: expected (T, 1, 16, 16) or (B, T, 1, 16, 16), found {shape}"
        with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
            use(images)


def test_cues_for_another_number_of_memories_are_refused():
    memories = opened()
    memory = memories.write(random_episodes(B, T))
    for one, cues, expected in (
        (memory, some_cues()[:2], "(3, T, 1, 16, 16)"),
        (memory, some_cues()[0], "(3, T, 1, 16, 16)"),
        (memory[0], some_cues(), "(T, 1, 16, 16)"),
        (memory[0], some_cues()[:1], "(T, 1, 16, 16)"),
        (memory[:1], some_cues()[0], "(1, T, 1, 16, 16)"),
    ):
        sentence = f"cues: expected {expected} for this memory, found {tuple(cues.shape)}"
        for use in (memories.recall, memories.locate):
            with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
                use(one, cues)


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_intensities_outside_the_unit_interval_are_refused(value):
    memories, images = opened(), some_cues()
    memory = memories.write(images)
    images[1, 2, 0, 3, 4] = value
    known = torch.zeros_like(images, dtype=torch.bool)
    for name, use in (
        ("images", memories.write),
        ("images", memories.autoencode),
        ("cues", lambda cues: memories.recall(memory, cues)),
        ("cues", lambda cues: memories.complete(memory, cues, known)),
        ("cues", lambda cues: memories.interpolate(memory, cues[:, 0], cues[:, 2], 3)),
    ):
        with pytest.raises(InputError, match=rf"^{name}: expected intensities from 0 to 1, found float64 \(3, "):
            use(images)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda x: x.to(torch.complex64), "complex64, strided, on cpu"),
        (lambda x: x.to("meta"), "float64, strided, on meta"),
        (lambda x: x.to_sparse(), "float64, sparse_coo, on cpu"),
    ],
    ids=["complex", "meta", "sparse"],
)
def test_tensors_without_real_numbers_are_refused(change, found):
    memories, images = opened(), some_cues()
    memory = memories.write(images)
    wrong = {
        "images": lambda: memories.write(change(images)),
        "cues": lambda: memories.recall(memory, change(images)),
        "cue_b": lambda: memories.interpolate(memory, images[:, 0], change(images[:, 1]), 3),
        "memory": lambda: memories.recall(Memory(change(memory.value), memory.author), images),
    }
    for name, use in wrong.items():
        with pytest.raises(InputError, match=f"^{name}: expected a dense tensor of real numbers, found {found}$"):
            use()


CANNOT_BE = r"^images: expected pixels that p\(x \| z\) can have, 0 or 1, as of `binarize`, found float64 \(3, "


@pytest.mark.parametrize("value", [0.5, 255.0, math.nan])
def test_the_likelihood_of_pixels_that_cannot_be_is_refused(value):
    memories, images = opened(), random_episodes(B, T)
    read = memories.recall(memories.write(images), images)[-1]
    images[0, 0, 0, 0, 0] = value
    with pytest.raises(InputError, match=CANNOT_BE):
        memories.log_likelihood(images, read)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool], ids=str)
def test_images_that_are_no_intensities_are_refused(dtype):
    memories, images = opened(), random_episodes(B, T)
    memory, kind = memories.write(images), str(dtype).removeprefix("torch.")
    for name, use in {"images": memories.write, "cues": lambda cues: memories.recall(memory, cues)}.items():
        sentence = re.escape(f"{name}: expected intensities from 0 to 1, found {kind} (3, 5, 1, 16, 16)")
        with pytest.raises(InputError, match=f"^{sentence}"):
            use(images.to(dtype))


@pytest.mark.parametrize("other", ["float", "byte", "fewer", "one channel less", "smaller"])
def test_a_mask_of_another_shape_or_type_is_refused(other):
    memories, mask = opened(), some_mask()
    memory = memories.write(random_episodes(B, T))
    wrong = {
        "float": mask.float(),
        "byte": mask.byte(),
        "fewer": mask[:, :1],
        "one channel less": mask[:, :, 0],
        "smaller": mask[..., :8],
    }[other]
    kind = str(wrong.dtype).removeprefix("torch.")
    sentence = re.escape(f"mask: expected bool (3, 5, 1, 16, 16), found {kind} {tuple(wrong.shape)}")
    with pytest.raises(InputError, match=f"^{sentence}"):
        memories.complete(memory, some_cues(), wrong)


@pytest.mark.parametrize("shape", [(T, 1, 3), (2, T, 1, 3), (B, T, 2, 3), (B, T, 1, 2), (B, 1, 3), (1, B, T, 1, 3)])
def test_keys_of_another_shape_are_refused(shape):
    memories = opened()
    memory = memories.write(random_episodes(B, T))
    sentence = re.escape(f"keys: expected (3, N, 1, 3) for this memory, found {shape}")
    with pytest.raises(InputError, match=f"^{sentence}$"):
        memories.read(memory, torch.zeros(shape))
    with pytest.raises(InputError, match=r"^keys: expected \(N, 1, 3\) for this memory"):
        memories.read(memory[0], torch.zeros(B, T, 1, 3))


@pytest.mark.parametrize("number", [0, -1])
def test_no_steps_and_no_images_are_refused(number):
    memories, cues = opened(), some_cues()
    memory = memories.write(random_episodes(B, T))
    for use in (
        lambda: memories.recall(memory, cues, number),
        lambda: memories.complete(memory, cues, some_mask(), number),
        lambda: memories.autoencode(cues, number),
    ):
        with pytest.raises(InputError, match=f"^steps: expected at least 1, found {number}$"):
            use()
    with pytest.raises(InputError, match=f"^n: expected at least 1, found {number}$"):
        memories.generate(memory, number)
    with pytest.raises(InputError, match=r"^steps: expected at least 0, found -1$"):
        memories.generate(memory, 2, steps=-1)
    for n in (number, 1):
        with pytest.raises(InputError, match=f"^n: expected at least 2, found {n}$"):
            memories.interpolate(memory, cues[:, 0], cues[:, 1], n)


def test_arrays_and_fractions_are_refused():
    memories, cues = opened(), some_cues()
    memory = memories.write(random_episodes(B, T))
    for use in (
        lambda: memories.recall(memory, cues.numpy()),
        lambda: memories.complete(memory, cues, some_mask().numpy()),
        lambda: memories.interpolate(memory, cues[:, 0].numpy(), cues[:, 1], 3),
    ):
        with pytest.raises(InputError, match=r": expected a Tensor, found a ndarray$"):
            use()
    for use in (lambda: memories.recall(memory, cues, 1.5), lambda: memories.generate(memory, 1.5)):
        with pytest.raises(InputError, match=r": expected a whole number, found 1.5$"):
            use()


def test_an_interpolation_that_cannot_be_is_refused():
    memories, cues = opened(), some_cues()
    memory = memories.write(random_episodes(B, T))
    with pytest.raises(InputError, match=r"^through: expected one of keys or latents, found 'pixels'$"):
        memories.interpolate(memory, cues[:, 0], cues[:, 1], 3, "pixels")
    for one, other in ((cues[:, 0], cues[0, 0]), (cues[:, 0], cues[:, 0, :, :8]), (cues[0, 0, 0], cues[0, 1, 0])):
        sentence = "^cue_a, cue_b: expected images of one shape and dtype, found .*"
        shapes = f"{re.escape(str(tuple(one.shape)))}.* and .*{re.escape(str(tuple(other.shape)))}"
        with pytest.raises(InputError, match=sentence + shapes):
            memories.interpolate(memory, one, other, 3)
    with pytest.raises(
        InputError, match=r"^cues: expected \(3, T, 1, 16, 16\) for this memory, found \(2, 1, 16, 16\)$"
    ):
        memories.interpolate(memory, cues[0, 0], cues[0, 1], 3)
