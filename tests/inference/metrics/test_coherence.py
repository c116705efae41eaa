"""Distances within and between episodes: by hand, in their extremes, and their errors against many repetitions."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch

from inference.metrics.coherence import episode_distances, summarize_coherence
from kpp_pyro.distances import SQUARED_ERROR, WRONG_PIXELS

SHAPE = (1, 3, 4)
every_distance = pytest.mark.parametrize("distance", [WRONG_PIXELS, SQUARED_ERROR], ids=lambda distance: distance.name)


def random_images(*batch, seed=1):
    return torch.rand(*batch, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def related_images(episodes, images, seed, spread=0.2):
    """Images around one of their episode's own."""
    centre, noise = random_images(episodes, 1, seed=seed), random_images(episodes, images, seed=seed + 10**6)
    return (centre + spread * (noise - 0.5)).clamp(0, 1)


def apart(one, other, distance):
    pairs = list(zip(one.flatten().tolist(), other.flatten().tolist(), strict=True))
    if distance is WRONG_PIXELS:
        return sum((a > 0.5) != (b > 0.5) for a, b in pairs)
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


def statistics_by_hand(images, distance):
    """Within episodes, between them, and the ratio: means over all others, and those to the nearest of the others."""
    within, between = ([], []), ([], [])
    for (e, one), (f, other) in itertools.product(enumerate(images), repeat=2):
        rows = [[apart(a, b, distance) for j, b in enumerate(other) if j != i] for i, a in enumerate(one)]
        for kind, of_image in enumerate((statistics.fmean, min)):
            (within if e == f else between)[kind].append(statistics.fmean(map(of_image, rows)))
    found = []
    for own, others in zip(within, between, strict=True):
        means = statistics.fmean(own), statistics.fmean(others)
        found += [*means, means[0] / means[1]]
    return found


def names(distance):
    kinds = (f"{distance.name}_within_episodes", f"{distance.name}_between_episodes", "within_to_between_ratio")
    return [*kinds, *(f"nearest_{kind}" for kind in kinds)]


@every_distance
def test_means_and_nearest_are_those_over_all_pairs_of_images(distance):
    images, training = random_images(4, 3), random_images(6, seed=2)
    summary = summarize_coherence(images, training, distance)
    found = [summary[name] for name in names(distance)]
    assert found == pytest.approx(statistics_by_hand(images, distance))
    nearest = [min(apart(image, other, distance) for other in training) for image in images.flatten(0, 1)]
    assert summary[f"{distance.name}_to_nearest_training"] == pytest.approx(statistics.fmean(nearest), rel=1e-5)
    of_episodes = [statistics.fmean(nearest[3 * e : 3 * e + 3]) for e in range(4)]
    error = statistics.stdev(of_episodes) / 2
    assert summary[f"{distance.name}_to_nearest_training_standard_error"] == pytest.approx(error, rel=1e-4)


@every_distance
def test_the_order_of_images_and_of_episodes_does_not_matter(distance):
    images, training = random_images(4, 3), random_images(6, seed=2)
    summary = summarize_coherence(images, training, distance)
    for turned in (images.flip(0), images.flip(1), images.roll(1, 0)):
        assert summarize_coherence(turned, training, distance) == pytest.approx(summary)
    mean, _ = episode_distances(images, distance)
    torch.testing.assert_close(mean, mean.mT)


@every_distance
def test_copies_have_the_ratio_zero_and_images_that_are_unrelated_one(distance):
    training = random_images(2, seed=2)
    copies = random_images(5, 1).expand(-1, 4, -1, -1, -1)
    summary = summarize_coherence(random_images(40, 6), training, distance)
    for ratio in ("within_to_between_ratio", "nearest_within_to_between_ratio"):
        assert summarize_coherence(copies, training, distance)[ratio] == pytest.approx(0, abs=1e-12)
        error = summary[f"{ratio}_standard_error"]
        assert summary[ratio] == pytest.approx(1, abs=4 * error) and error < 0.03


def test_in_episodes_of_two_classes_nearest_images_are_of_the_same_class():
    """Copies of two images: three of the five others are of the other class, and the nearest is a copy."""
    images = random_images(6, 2).repeat_interleave(3, 1)
    summary = summarize_coherence(images, random_images(2, seed=2), SQUARED_ERROR)
    assert summary["nearest_within_to_between_ratio"] == 0
    within = SQUARED_ERROR.between(images[:, 0], images[:, 3]).mean().item()
    assert summary["squared_error_within_episodes"] == pytest.approx(3 / 5 * within)


@every_distance
def test_errors_are_those_of_the_definition_without_each_episode_in_turn(distance):
    images, training = related_images(5, 3, seed=1), random_images(2, seed=2)
    left = [statistics_by_hand(torch.cat([images[:e], images[e + 1 :]]), distance) for e in range(5)]
    summary = summarize_coherence(images, training, distance)
    for name, values in zip(names(distance), zip(*left, strict=True), strict=True):
        assert summary[f"{name}_standard_error"] == pytest.approx(math.sqrt(5 - 1) * statistics.pstdev(values))
    within = [statistics.fmean(apart(a, b, distance) for a, b in itertools.combinations(own, 2)) for own in images]
    error = summary[f"{distance.name}_within_episodes_standard_error"]
    assert error == pytest.approx(statistics.stdev(within) / math.sqrt(5))  # that of a mean of independent numbers


def test_errors_are_the_spread_over_repetitions_and_rather_too_large():
    """Of distances between episodes, too, in whose mean each episode takes part in many pairs."""
    training = random_images(2, seed=2)
    found = [summarize_coherence(related_images(12, 2, seed), training, SQUARED_ERROR) for seed in range(300)]
    for name in names(SQUARED_ERROR):
        spread = statistics.stdev(summary[name] for summary in found)
        errors = [summary[f"{name}_standard_error"] for summary in found]
        assert 0.9 < math.sqrt(statistics.fmean(error**2 for error in errors)) / spread < 1.3, name


def test_what_is_not_known_is_not_a_number():
    training = random_images(2, seed=2)
    of_one = summarize_coherence(random_images(1, 3), training, SQUARED_ERROR)
    for name in names(SQUARED_ERROR):
        assert math.isfinite(of_one[name]) == name.endswith("within_episodes")
    of_two = summarize_coherence(random_images(2, 3), training, SQUARED_ERROR)
    assert of_two["within_to_between_ratio"] > 0 and math.isnan(of_two["within_to_between_ratio_standard_error"])
    of_single_images = summarize_coherence(random_images(3, 1), training, SQUARED_ERROR)
    assert not any(math.isfinite(of_single_images[name]) for name in names(SQUARED_ERROR))
    assert of_single_images["squared_error_to_nearest_training"] > 0
