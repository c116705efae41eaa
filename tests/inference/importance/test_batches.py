from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from inference.importance.scoring import ScoringPlan, batches_of, score_episodes
from inference.processes import Processes
from inference.tracing import seed_of
from tests.programs import random_episodes, small_pair


class Recorded(Processes):
    """One of several processes; `gather` knows what the others have computed."""

    shards = None

    def gather(self, value):
        """Of errors, those of this process alone."""
        if not isinstance(value, list):
            return [value] * self.count
        shards = list(self.shards or [value] * self.count)
        shards[self.rank] = value
        return shards


def process(rank: int, count: int, shards: list | None = None) -> Recorded:
    found = Recorded(rank, count)
    object.__setattr__(found, "shards", shards)
    return found


def batches(number: int):
    return [(torch.full((2, 3, 1, 1, 1), float(index)), torch.ones(2, 3, dtype=torch.bool)) for index in range(number)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, 4, 6])
def test_every_item_is_computed_once_and_results_come_in_order(count: int, number: int) -> None:
    calls = Counter()

    def square(item: int) -> int:
        calls[item] += 1
        return item**2

    shards = [[item**2 for item in range(rank, number, count)] for rank in range(count)]
    for rank in range(count):
        assert process(rank, count, shards).map(square, iter(range(number))) == [item**2 for item in range(number)]
    assert calls == Counter(range(number))


def test_a_batch_knows_the_episode_before_it_and_has_a_seed_of_its_own() -> None:
    found = list(batches_of(batches(5), 5))
    assert found[0].before is None
    for before, batch in itertools.pairwise(found):
        assert torch.equal(batch.before, before.episode[-1:])
    assert [batch.seed for batch in found] == [seed_of(5, number) for number in range(5)]
    assert len({batch.seed for batch in found}) == 5


def test_seeds_are_of_all_numbers_and_their_order() -> None:
    seeds = {seed_of(*numbers) for numbers in [(0,), (0, 0), (0, 1), (1, 0), (1, 1), (11,), (1, 2**62)]}
    assert len(seeds) == 7 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, 1) == seed_of(0, 1)


def test_a_batch_is_encoded_once_and_its_cues_once_for_all_controls(monkeypatch) -> None:
    pair, episode, shapes = small_pair(), random_episodes(2, 3), Counter()
    encode = type(pair.guide).encode

    def counted(guide, images):
        shapes[tuple(images.shape[:2])] += 1
        return encode(guide, images)

    monkeypatch.setattr(type(pair.guide), "encode", counted)
    everything = torch.ones(2, 3, dtype=torch.bool)
    scores = score_episodes(pair.model, pair.guide, [(episode, everything)], ScoringPlan(5, 0, 5))
    assert scores.by_memory.keys() == {"own", "empty", "left_out", "other"}
    assert shapes == {(2, 3): 1, (6, 1): 1, (6, 2): 1}  # the episodes, their cues, and all but one image of each
