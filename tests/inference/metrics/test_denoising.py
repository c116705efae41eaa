"""Recall from corrupted cues: every error against slow loops, the oracle of written images, means and pairs by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from inference import build
from inference.metrics.denoising import (
    Denoising,
    Errors,
    compare_first_with_last,
    denoise,
    of_images,
    summarize_cue,
    summarize_errors,
)
from inference.trained_memory import TrainedMemory
from kpp_pyro.corruptions import Corrupted, corrupt
from kpp_pyro.distances import SQUARED_ERROR, WRONG_PIXELS
from tests.programs import IMAGE_SHAPE, WRITES, random_episodes, small_config, small_pair

both_writes = pytest.mark.parametrize("write", WRITES)
B, T, S = 2, 4, 3
EVERY = list(itertools.product(range(B), range(T)))
NOISES = {"salt_and_pepper": 0.5, "speckle": 1.5, "poisson": 1.3, "gaussian": 0.8, "mask": 0.6}


def opened(write="allocate", **changes):
    program = small_pair(write, **changes)
    return TrainedMemory(program.model, program.guide)


def corrupted_copies(images, noise):
    return corrupt(images, noise, NOISES[noise], torch.Generator().manual_seed(7))


def uncorrupted(images):
    return Corrupted(images, torch.zeros_like(images, dtype=torch.bool))


def apart(estimate, image):
    """Pixels that differ between two images, one by one."""
    pairs = zip(estimate.flatten().tolist(), image.flatten().tolist(), strict=True)
    return sum((one > 0.5) != (other > 0.5) for one, other in pairs)


def nats(latent, memories, image):
    """-ln p(x | z) of a single image, pixel by pixel."""
    logits = memories.model.decoder(latent).flatten().tolist()
    total = 0.0
    for logit, pixel in zip(logits, image.flatten().tolist(), strict=True):
        total += pixel * math.log1p(math.exp(-logit)) + (1 - pixel) * math.log1p(math.exp(logit))
    return total


def nearest_written(cue, hidden, episode):
    """Distances of one cue to the images of its episode in what is visible."""
    seen = [not one for one in hidden.flatten().tolist()]
    distances = []
    for image in episode:
        squares = zip(cue.flatten().tolist(), image.flatten().tolist(), seen, strict=True)
        distances.append(sum((one - other) ** 2 for one, other, visible in squares if visible))
    return distances


@torch.no_grad()
def assert_errors(errors, decoded, memories, episodes):
    assert errors.distance.shape == errors.nats.shape == errors.found.shape == (len(decoded), B, T)
    for step, (b, t) in itertools.product(range(len(decoded)), EVERY):
        estimate, image = decoded[step].images[b, t], episodes[b, t]
        distances = [apart(estimate, other) for other in episodes[b]]
        assert errors.distance[step, b, t] == distances[t]
        assert errors.found[step, b, t] == (min(distances) == distances[t])
        assert errors.nats[step, b, t].item() == pytest.approx(nats(decoded[step].latents[b, t], memories, image))


@both_writes
@pytest.mark.parametrize("noise", NOISES)
def test_errors_after_every_read_are_those_of_slow_loops(write, noise):
    memories, episodes = opened(write), random_episodes(B, T)
    corrupted = corrupted_copies(episodes, noise)
    found = denoise(memories, episodes, corrupted, S)
    memory = memories.write(episodes)
    assert_errors(found.recall, memories.recall(memory, corrupted.images, S), memories, episodes)
    assert_errors(found.memoryless, memories.autoencode(corrupted.images, S), memories, episodes)
    completed = memories.complete(memory, corrupted.images, corrupted.hidden, S)
    assert_errors(found.completion, completed, memories, episodes)
    for b, t in EVERY:
        assert found.cue[b, t] == apart(corrupted.images[b, t], episodes[b, t])


@both_writes
def test_completion_is_recall_where_nothing_is_hidden_and_only_there(write):
    memories, episodes = opened(write), random_episodes(B, T)
    open_cues = denoise(memories, episodes, corrupted_copies(episodes, "salt_and_pepper"), S)
    for name in ("distance", "nats", "found"):
        assert torch.equal(getattr(open_cues.completion, name), getattr(open_cues.recall, name))
    hiding = denoise(memories, episodes, corrupted_copies(episodes, "mask"), S)
    assert not torch.equal(hiding.completion.nats, hiding.recall.nats)


@torch.no_grad()
@pytest.mark.parametrize("noise", NOISES)
def test_the_nearest_written_image_is_that_of_brute_force(noise):
    memories, episodes = opened(), random_episodes(B, T)
    ink = episodes[:, 0].flatten(1).topk(T).indices  # of each first image; the others lose one such pixel after another
    for b, t in EVERY:
        episodes[b, t] = episodes[b, 0].flatten().index_fill(0, ink[b, :t], 0.0).view(IMAGE_SHAPE)
    corrupted = corrupted_copies(episodes, noise)  # of images so much alike that some cues are nearer to another
    found = denoise(memories, episodes, corrupted, S).nearest
    clean = memories.recall(memories.write(episodes), episodes)[0]
    assert found.distance.shape == found.nats.shape == found.found.shape == (1, B, T)
    for b, t in EVERY:
        distances = nearest_written(corrupted.images[b, t], corrupted.hidden[b, t], episodes[b])
        best = t if distances[t] <= min(distances) + 1e-9 else distances.index(min(distances))
        assert found.found[0, b, t] == (best == t)
        assert found.distance[0, b, t] == apart(episodes[b, best], episodes[b, t])
        expected = nats(clean.latents[b, best], memories, episodes[b, t])
        assert found.nats[0, b, t].item() == pytest.approx(expected)
    if noise != "mask":  # which leaves no visible pixel wrong
        assert found.distance.max() > 0  # there was something to get wrong


def halves(left, right):
    """An image whose left half and right half are given."""
    return torch.cat([left, right], -1)


def test_hidden_pixels_do_not_decide_which_written_image_is_nearest():
    memories, half = opened(), random_episodes(1, 1)[0, 0, :, :, :8]
    almost = half.clone()
    almost[0, 3, 5] = 1 - almost[0, 3, 5]
    black, white = torch.zeros_like(half), torch.ones_like(half)
    first, second = halves(half, white), halves(almost, black)
    episode = torch.stack([first, second])[None]
    hidden = torch.zeros_like(episode, dtype=torch.bool)
    hidden[..., 8:] = True
    cues = torch.stack([halves(half, black), halves(almost, white)])[None]  # in all pixels each looks like the other
    own = denoise(memories, episode, Corrupted(cues, hidden), 1).nearest
    assert own.found.tolist() == [[[True, True]]] and own.distance.tolist() == [[[0, 0]]]
    cues = torch.stack([halves(almost, white), halves(half, black)])[None]  # in what is visible each is the other
    other = denoise(memories, episode, Corrupted(cues, hidden), 1).nearest
    assert other.found.tolist() == [[[False, False]]] and other.distance.tolist() == [[[129, 129]]]
    seen = denoise(memories, episode, uncorrupted(cues), 1).nearest
    assert seen.found.all()  # with all pixels visible, the right half decides


@both_writes
def test_of_images_that_are_equally_near_an_image_finds_its_own(write):
    memories = opened(write)
    episodes = random_episodes(B, 1).expand(-1, T, -1, -1, -1).clone()  # T copies of one image
    for corrupted in (uncorrupted(episodes), corrupted_copies(episodes, "speckle"), corrupted_copies(episodes, "mask")):
        found = denoise(memories, episodes, corrupted, S)
        for errors in (found.recall, found.completion, found.memoryless, found.nearest):
            assert errors.found.all()
        assert (found.nearest.distance == 0).all()
    distinct = random_episodes(B, T)
    blank = Corrupted(torch.zeros_like(distinct), torch.ones_like(distinct, dtype=torch.bool))  # nothing is visible
    assert denoise(memories, distinct, blank, 1).nearest.found.all()


@both_writes
def test_a_clean_cue_is_its_own_nearest_image(write):
    memories, episodes = opened(write), random_episodes(B, T)
    found = denoise(memories, episodes, uncorrupted(episodes), S)
    assert (found.cue == 0).all() and (found.nearest.distance == 0).all() and found.nearest.found.all()
    torch.testing.assert_close(found.nearest.nats[0], found.recall.nats[0])  # one read of the clean image


def test_errors_follow_their_images_when_an_episode_is_written_in_another_order():
    memories, episodes = opened(temporal_shift=0.0), random_episodes(B, T)
    corrupted, order = corrupted_copies(episodes, "mask"), torch.tensor([2, 0, 3, 1])
    found = denoise(memories, episodes, corrupted, S)
    moved = denoise(memories, episodes[:, order], Corrupted(corrupted.images[:, order], corrupted.hidden[:, order]), S)
    assert torch.equal(moved.memoryless.distance, found.memoryless.distance[..., order])
    assert torch.equal(moved.nearest.distance, found.nearest.distance[..., order])
    assert torch.equal(moved.cue, found.cue[:, order])


# Grey levels


def level_episodes():
    generator = torch.Generator().manual_seed(2)
    return torch.randint(256, (B, T, 3, 16, 16), generator=generator).double() / 255


def opened_levels():
    program = build(small_config(likelihood="discretized_logistic"), (3, 16, 16)).double()
    return TrainedMemory(program.model, program.guide)


def squared(one, other):
    """Squared error per dimension, number by number."""
    pairs = list(zip(one.flatten().tolist(), other.flatten().tolist(), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


@torch.no_grad()
@pytest.mark.parametrize("noise", ["gaussian", "salt_and_pepper", "mask"])
def test_errors_of_grey_levels_are_squared_and_the_nearest_image_has_the_least(noise):
    memories, episodes = opened_levels(), level_episodes()
    corrupted = corrupted_copies(episodes, noise)
    found = denoise(memories, episodes, corrupted, S)
    memory = memories.write(episodes)
    kinds = {
        "recall": memories.recall(memory, corrupted.images, S),
        "completion": memories.complete(memory, corrupted.images, corrupted.hidden, S),
        "memoryless": memories.autoencode(corrupted.images, S),
    }
    for kind, (b, t) in itertools.product(kinds, EVERY):
        errors = getattr(found, kind)
        for step, read in enumerate(kinds[kind]):
            distances = [squared(read.images[b, t], image) for image in episodes[b]]
            assert errors.distance[step, b, t].item() == pytest.approx(distances[t])
            assert errors.found[step, b, t] == (distances[t] <= min(distances) + 1e-6)
    for b, t in EVERY:
        assert found.cue[b, t].item() == pytest.approx(squared(corrupted.images[b, t], episodes[b, t]))
        distances = nearest_written(corrupted.images[b, t], corrupted.hidden[b, t], episodes[b])
        best = distances.index(min(distances))
        assert found.nearest.distance[0, b, t].item() == pytest.approx(squared(episodes[b, best], episodes[b, t]))


def test_cues_between_two_levels_are_not_rounded():
    memories, episodes = opened_levels(), level_episodes()
    memory = memories.write(episodes)
    cues = (episodes + 0.4 / 255).clamp(max=1)
    exact, rounded = (memories.recall(memory, one)[0].images for one in (cues, episodes))
    assert (exact - rounded).abs().max() > 1e-9
    moved = memories.autoencode(cues)[0].images - memories.autoencode(episodes)[0].images
    assert moved.abs().max() > 1e-9


def test_psnr_is_that_of_the_mean_squared_error():
    errors = Errors(torch.tensor([[0.01, 0.03], [0.0, 0.002]]), torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    summary = summarize_errors(errors, SQUARED_ERROR)
    assert summary["squared_error_per_dim"] == pytest.approx([0.02, 0.001])
    assert summary["psnr_db"] == pytest.approx([-10 * math.log10(0.02), 30])
    assert summarize_cue(errors.distance[1], SQUARED_ERROR) == pytest.approx(
        {"cue_squared_error_per_dim": 0.001, "cue_psnr_db": 30}
    )
    step = 1e-6  # the delta method, by a finite difference
    slope = (10 * math.log10(0.02 + step) - 10 * math.log10(0.02 - step)) / (2 * step)
    assert summary["psnr_db_standard_error"][0] == pytest.approx(slope * 0.01, rel=1e-5)
    change = compare_first_with_last(errors, SQUARED_ERROR)
    assert change["change_in_squared_error_per_dim"] == pytest.approx(-0.019)
    assert change["change_in_squared_error_standard_error"] == pytest.approx(0.009)


def test_without_errors_psnr_is_infinite_and_its_own_error_unknown():
    summary = summarize_errors(Errors(*torch.zeros(3, 1, 5)), SQUARED_ERROR)
    assert summary["psnr_db"] == [math.inf] and math.isnan(summary["psnr_db_standard_error"][0])


# Joining batches


def labelled(first, episodes):
    """Errors that say which step, image and quantity they are of: 1000 s + image, counted from `first`."""
    image = first + torch.arange(episodes * T).view(episodes, T)
    kinds = (S, S, S, 1)
    errors = [
        Errors(*((1000 * torch.arange(s).view(-1, 1, 1) + image) * 10 + part for part in range(3))) for s in kinds
    ]
    return Denoising(image, *errors)


def test_batches_are_joined_and_what_does_not_count_is_left_out():
    masks = (
        torch.tensor([[True, True, True, True], [True, False, True, False]]),
        torch.tensor([[False, True, True, False]]),
    )
    joined = of_images([(labelled(0, 2), masks[0]), (labelled(8, 1), masks[1])])
    kept = [0, 1, 2, 3, 4, 6, 9, 10]
    assert joined.cue.tolist() == kept
    for errors, steps in ((joined.recall, S), (joined.completion, S), (joined.memoryless, S), (joined.nearest, 1)):
        for part, values in enumerate((errors.distance, errors.nats, errors.found)):
            assert values.tolist() == [[(1000 * s + image) * 10 + part for image in kept] for s in range(steps)]


def test_joined_batches_equal_one_large_batch():
    memories, episodes = opened(), random_episodes(B, T)
    corrupted = corrupted_copies(episodes, "mask")
    counted = torch.ones(B, T, dtype=torch.bool)
    whole = of_images([(denoise(memories, episodes, corrupted, S), counted)])
    parts = []
    for b in range(B):
        one = Corrupted(corrupted.images[b : b + 1], corrupted.hidden[b : b + 1])
        parts.append((denoise(memories, episodes[b : b + 1], one, S), counted[b : b + 1]))
    joined = of_images(parts)
    for kind in ("recall", "completion", "memoryless", "nearest"):
        for name in ("distance", "nats", "found"):
            torch.testing.assert_close(getattr(getattr(joined, kind), name), getattr(getattr(whole, kind), name))


# Summaries


def mean_and_error(values):
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


WRONG = [[3, 0, 7, 10, 2], [1, 0, 9, 10, 0]]
NATS = [[30.5, 1.25, 80.0, 100.0, 20.0], [10.0, 1.5, 95.0, 101.0, 2.0]]
FOUND = [[True, True, False, True, False], [True, False, True, True, False]]


def by_hand():
    return Errors(torch.tensor(WRONG), torch.tensor(NATS), torch.tensor(FOUND))


def test_means_and_their_errors_are_those_over_the_images():
    summary = summarize_errors(by_hand(), WRONG_PIXELS)
    names = {"wrong_pixels_per_image": WRONG, "nats_per_image": NATS, "found_share": FOUND}
    assert set(summary) == {*names, *(f"{name}_standard_error" for name in names)}
    for name, steps in names.items():
        expected = [mean_and_error([float(value) for value in step]) for step in steps]
        assert summary[name] == pytest.approx([mean for mean, _ in expected])
        assert summary[f"{name}_standard_error"] == pytest.approx([error for _, error in expected])


def test_the_error_of_a_single_image_is_not_known():
    single = Errors(*(values[:, :1] for values in (torch.tensor(WRONG), torch.tensor(NATS), torch.tensor(FOUND))))
    summary = summarize_errors(single, WRONG_PIXELS)
    assert summary["wrong_pixels_per_image"] == [3, 1] and summary["found_share"] == [1, 1]
    assert all(math.isnan(error) for error in summary["wrong_pixels_per_image_standard_error"])
    assert math.isnan(compare_first_with_last(single, WRONG_PIXELS)["change_in_wrong_pixels_standard_error"])


def test_the_first_read_and_the_last_are_compared_image_by_image():
    between = Errors(
        *(values[None].expand(1, -1) for values in (torch.full((5,), 200), torch.zeros(5), torch.zeros(5)))
    )
    parts = [by_hand(), between]
    errors = Errors(
        *(
            torch.stack([getattr(parts[0], name)[0], getattr(parts[1], name)[0], getattr(parts[0], name)[1]])
            for name in ("distance", "nats")
        ),
        torch.tensor([FOUND[0], [False] * 5, FOUND[1]]),
    )
    found = compare_first_with_last(errors, WRONG_PIXELS)  # what lies between does not matter
    change, error = mean_and_error([last - first for first, last in zip(*WRONG, strict=True)])
    assert found["change_in_wrong_pixels_per_image"] == pytest.approx(change)
    assert found["change_in_wrong_pixels_standard_error"] == pytest.approx(error)
    unpaired = math.hypot(mean_and_error(WRONG[0])[1], mean_and_error(WRONG[1])[1])
    assert found["change_in_wrong_pixels_standard_error"] < unpaired / 2
    assert found["drifted_share"] == pytest.approx(0.2) and found["rescued_share"] == pytest.approx(0.2)
    assert found["drifted_standard_error"] == pytest.approx(mean_and_error([0, 1, 0, 0, 0])[1])
    assert found["rescued_standard_error"] == pytest.approx(mean_and_error([0, 0, 1, 0, 0])[1])


def test_drifting_and_rescuing_change_places_when_time_runs_backwards():
    generator = torch.Generator().manual_seed(5)
    first, last = torch.rand(2, 50, generator=generator) < torch.tensor([[0.7], [0.4]])
    there = compare_first_with_last(
        Errors(torch.zeros(2, 50), torch.zeros(2, 50), torch.stack([first, last])), WRONG_PIXELS
    )
    back = compare_first_with_last(
        Errors(torch.zeros(2, 50), torch.zeros(2, 50), torch.stack([last, first])), WRONG_PIXELS
    )
    assert there["drifted_share"] == back["rescued_share"] == pytest.approx((first & ~last).double().mean().item())
    assert there["drifted_share"] - there["rescued_share"] == pytest.approx(
        (first.double().mean() - last.double().mean()).item()
    )
    one_read = compare_first_with_last(by_hand_of_one_read(), WRONG_PIXELS)
    assert one_read["change_in_wrong_pixels_per_image"] == one_read["drifted_share"] == one_read["rescued_share"] == 0


def by_hand_of_one_read():
    return Errors(torch.tensor(WRONG[:1]), torch.tensor(NATS[:1]), torch.tensor(FOUND[:1]))
