"""Samples of a memory: nearest images against brute force, coverage and novelty by hand and in their extremes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from inference.metrics import generation
from inference.metrics.generation import (
    Generation,
    Nearest,
    covered,
    measure,
    near_distance,
    nearest,
    summarize_generation,
)
from kpp_pyro.distances import SQUARED_ERROR, WRONG_PIXELS

SHAPE = (1, 5, 6)


def random_images(number, seed, share=0.4):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(number, *SHAPE, generator=generator) < share).float()


def apart(one, other):
    pairs = zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)
    return sum((a > 0.5) != (b > 0.5) for a, b in pairs)


def nearest_by_hand(images, others):
    """Distance and index of the first of the nearest, image by image."""
    rows = [[apart(image, other) for other in others] for image in images]
    return [min(row) for row in rows], [row.index(min(row)) for row in rows]


def found_at(distance, index):
    return Nearest(torch.tensor(distance, dtype=torch.float32), torch.tensor(index))


@pytest.mark.parametrize("at_once", [1, 3, 7, 20, 8192])
def test_the_nearest_is_that_of_brute_force_however_many_are_looked_at_at_once(at_once, monkeypatch):
    monkeypatch.setattr(generation, "_AT_ONCE", at_once)
    images, others = random_images(9, 1), random_images(20, 2)
    distances, indices = nearest_by_hand(images, others)
    for candidates in (others, others > 0.5):  # floats or bools
        found = nearest(images, candidates, WRONG_PIXELS)
        assert found.distance.tolist() == distances and found.index.tolist() == indices


@pytest.mark.parametrize("at_once", [1, 2, 5, 8192])
def test_of_images_that_are_equally_near_the_first_is_taken(at_once, monkeypatch):
    monkeypatch.setattr(generation, "_AT_ONCE", at_once)
    images = random_images(4, 3)
    others = torch.cat([1 - images, images, images, 1 - images, images])
    found = nearest(images, others, WRONG_PIXELS)
    assert found.index.tolist() == [4, 5, 6, 7] and found.distance.tolist() == [0] * 4
    tied = nearest(torch.zeros(1, *SHAPE), torch.eye(30).view(30, *SHAPE), WRONG_PIXELS)  # each has one pixel
    assert (tied.index.tolist(), tied.distance.tolist()) == ([0], [1])


@pytest.mark.parametrize("at_once", [1, 7, 8192])
def test_the_nearest_of_grey_levels_has_the_smallest_squared_error(at_once, monkeypatch):
    monkeypatch.setattr(generation, "_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(8)
    images = torch.rand(9, 3, 4, 5, generator=generator)
    levels = torch.randint(256, (20, 3, 4, 5), generator=generator).byte()
    errors = (images.double()[:, None] - levels.double() / 255).square().mean((-3, -2, -1))  # (9, 20)
    found = nearest(images, levels, SQUARED_ERROR)
    assert torch.equal(found.index, errors.argmin(1))
    torch.testing.assert_close(found.distance, errors.min(1).values.float())
    own = nearest(levels / 255, levels, SQUARED_ERROR)
    assert own.index.tolist() == list(range(20)) and not own.distance.any()  # exactly 0


def test_squared_errors_are_counted_in_bins_whose_centres_are_thousandths():
    written = found_at([0.0, 0.0004, 0.0006, 0.0031, 0.0029], [0] * 5)
    memory = Generation(written, written, written, 0.001, 1, 1)
    summary = summarize_generation([memory], SQUARED_ERROR)
    assert summary["samples_by_squared_error_to_nearest_written"] == [2, 1, 0, 2]
    assert summary["squared_error_to_nearest_training"] == pytest.approx(0.0014)
    assert summary["novel_share"] == pytest.approx(0.4)


def test_images_are_cut_at_one_half_before_they_are_compared():
    images = torch.tensor([0.0, 0.5, 0.51, 1.0]).view(4, 1, 1, 1)
    assert nearest(images, torch.ones(1, 1, 1, 1), WRONG_PIXELS).distance.tolist() == [1, 1, 0, 0]
    assert nearest(torch.zeros(1, 1, 1, 1), images[1:], WRONG_PIXELS).distance.tolist() == [0]


def test_distances_are_symmetric_and_obey_the_triangle_inequality():
    first, second, third = (random_images(6, seed) for seed in (4, 5, 6))

    def between(one, other):
        return nearest(one[None], other[None], WRONG_PIXELS).distance.item()

    for a, b, c in itertools.product(first, second, third):
        assert between(a, b) == between(b, a) <= between(a, c) + between(c, b)


def test_near_is_half_the_mean_distance_to_the_training_images():
    assert near_distance(found_at([4.0, 9.0, 0.0, 11.0], [0, 0, 0, 0])) == 3.0


# Coverage


def coverage_by_hand(found, images, near):
    shares = []
    for number in range(1, len(found.index) + 1):
        pairs = zip(found.distance[:number].tolist(), found.index[:number].tolist(), strict=True)
        shares.append(len({index for distance, index in pairs if distance <= near}) / images)
    return shares


def test_coverage_counts_the_images_that_were_brought_back_so_far():
    #              near, far, on the border, the same again, far, another
    found = found_at([2, 9, 5, 0, 6, 1], [3, 1, 0, 3, 2, 1])
    curve = covered(found, 4, 5.0)
    assert curve.tolist() == [0.25, 0.25, 0.5, 0.5, 0.5, 0.75]
    assert curve.dtype == torch.float64
    assert covered(found, 8, 5.0).tolist() == [0.125, 0.125, 0.25, 0.25, 0.25, 0.375]
    assert covered(found, 4, 0.0).tolist() == [0, 0, 0, 0.25, 0.25, 0.25]
    assert covered(found, 4, -1.0).tolist() == [0] * 6


@pytest.mark.parametrize("near", [0, 2, 4.5, 30])
def test_coverage_grows_with_samples_and_is_that_of_the_first_ones_alone(near):
    generator = torch.Generator().manual_seed(9)
    found = Nearest(torch.randint(0, 9, (40,), generator=generator), torch.randint(0, 12, (40,), generator=generator))
    curve = covered(found, 12, near)
    assert curve.tolist() == pytest.approx(coverage_by_hand(found, 12, near))
    assert (curve.diff() >= 0).all() and curve[-1] <= 1
    for number in (1, 2, 7, 39):
        alone = covered(Nearest(found.distance[:number], found.index[:number]), 12, near)
        assert torch.equal(alone, curve[:number])
    assert (curve <= covered(found, 12, near + 1)).all()


def test_the_order_of_samples_changes_the_way_but_not_the_end():
    generator = torch.Generator().manual_seed(10)
    found = Nearest(torch.randint(0, 9, (30,), generator=generator), torch.randint(0, 12, (30,), generator=generator))
    order = torch.randperm(30, generator=generator)
    shuffled = Nearest(found.distance[order], found.index[order])
    assert covered(found, 12, 4)[-1] == covered(shuffled, 12, 4)[-1]


# Everything of a memory


def test_samples_are_measured_against_what_was_written_another_episode_and_training_images():
    samples, written, other_episode, training = (
        random_images(n, seed) for n, seed in ((7, 1), (4, 2), (5, 3), (30, 4))
    )
    found = measure(samples, written, other_episode, training, 2.5, WRONG_PIXELS)
    assert (found.near, found.images) == (2.5, 4)
    for part, others in ((found.written, written), (found.other_episode, other_episode), (found.training, training)):
        distances, indices = nearest_by_hand(samples, others)
        assert part.distance.tolist() == distances and part.index.tolist() == indices


def distinct_images(number):
    """Images any two of which differ in at least ten pixels."""
    kept = []
    for image in random_images(400, 11, share=0.5):
        if all(apart(image, other) >= 10 for other in kept):
            kept.append(image)
    assert len(kept) >= number
    return torch.stack(kept[:number])


def test_samples_that_are_the_written_images_cover_all_and_are_nothing_new():
    images = distinct_images(8)
    written, training = images[:4], images[4:]
    summary = summarize_generation(
        [measure(written.flip(0), written, training, training, 3.0, WRONG_PIXELS)] * 2, WRONG_PIXELS
    )
    assert summary["coverage_share"] == 1 and summary["coverage_of_other_episode_share"] == 0
    assert summary["novel_share"] == summary["novel_and_far_from_training_share"] == 0
    assert summary["wrong_pixels_to_nearest_written"] == 0
    assert summary["coverage_by_samples"] == [0.25, 0.5, 0.75, 1]
    assert summary["samples_by_wrong_pixels_to_nearest_written"] == [8]


def test_samples_far_from_everything_cover_nothing_and_are_all_new():
    images = distinct_images(9)
    summary = summarize_generation(
        [measure(images[:3], images[3:6], images[6:8], images[8:], 9.0, WRONG_PIXELS)], WRONG_PIXELS
    )
    assert summary["coverage_share"] == summary["coverage_of_other_episode_share"] == 0
    assert summary["novel_share"] == summary["novel_and_far_from_training_share"] == 1
    assert summary["coverage_by_samples"] == [0, 0, 0]


def test_samples_that_are_training_images_are_new_to_the_memory_only():
    images = distinct_images(8)
    summary = summarize_generation(
        [measure(images[:3], images[3:6], images[:3], images[:4], 9.0, WRONG_PIXELS)], WRONG_PIXELS
    )
    assert (summary["novel_share"], summary["novel_and_far_from_training_share"]) == (1, 0)
    assert summary["coverage_of_other_episode_share"] == 1  # of as many images as were written


# Means over memories


def two_memories():
    """Three samples of each of two memories of four images, near up to 3 wrong pixels."""
    return [
        Generation(
            written=found_at([1, 3, 8], [0, 2, 1]),
            other_episode=found_at([3, 9, 9], [1, 0, 0]),
            training=found_at([2, 4, 4], [5, 6, 7]),
            near=3.0,
            images=4,
            other_episode_images=4,
        ),
        Generation(
            written=found_at([0, 5, 6], [3, 3, 3]),
            other_episode=found_at([9, 9, 9], [0, 1, 2]),
            training=found_at([9, 3, 7], [5, 6, 7]),
            near=3.0,
            images=4,
            other_episode_images=4,
        ),
    ]


def test_means_and_their_errors_are_those_over_memories():
    summary = summarize_generation(two_memories(), WRONG_PIXELS)
    by_hand = {
        "coverage_share": (2 / 4, 1 / 4),
        "coverage_of_other_episode_share": (1 / 4, 0 / 4),
        "novel_share": (1 / 3, 2 / 3),
        "novel_and_far_from_training_share": (1 / 3, 1 / 3),
        "wrong_pixels_to_nearest_written": (12 / 3, 11 / 3),
        "wrong_pixels_to_nearest_training": (10 / 3, 19 / 3),
    }
    for name, (one, other) in by_hand.items():
        assert summary[name] == pytest.approx((one + other) / 2)
        assert summary[f"{name}_standard_error"] == pytest.approx(abs(one - other) / 2)  # of two values
    assert summary["coverage_by_samples"] == pytest.approx([(1 / 4 + 1 / 4) / 2, (2 / 4 + 1 / 4) / 2, 3 / 8])
    assert summary["samples_by_wrong_pixels_to_nearest_written"] == [1, 1, 0, 1, 0, 1, 1, 0, 1]
    assert summary["samples_by_wrong_pixels_to_nearest_training"] == [0, 0, 1, 1, 2, 0, 0, 1, 0, 1]
    errors = {f"{name}_standard_error" for name in by_hand}
    counts = {f"samples_by_wrong_pixels_to_nearest_{of}" for of in ("written", "training")}
    assert set(summary) == {*by_hand, *errors, *counts, "coverage_by_samples"}


def test_of_one_memory_no_error_is_known():
    summary = summarize_generation(two_memories()[:1], WRONG_PIXELS)
    assert summary["coverage_share"] == 0.5 and math.isnan(summary["coverage_share_standard_error"])


def test_every_sample_of_every_memory_is_counted_at_one_distance():
    training, memories = random_images(50, 20), []
    for seed in range(3):
        written, other_episode = random_images(6, 30 + seed), random_images(6, 40 + seed)
        memories.append(measure(random_images(25, 50 + seed), written, other_episode, training, 8.0, WRONG_PIXELS))
    summary = summarize_generation(memories, WRONG_PIXELS)
    for of in ("written", "training"):
        counts = summary[f"samples_by_wrong_pixels_to_nearest_{of}"]
        assert sum(counts) == 75
        mean = sum(distance * count for distance, count in enumerate(counts)) / 75
        assert summary[f"wrong_pixels_to_nearest_{of}"] == pytest.approx(mean)
    far = sum(summary["samples_by_wrong_pixels_to_nearest_written"][9:])
    assert summary["novel_share"] == pytest.approx(far / 75)
    assert summary["coverage_by_samples"][-1] == pytest.approx(summary["coverage_share"])
