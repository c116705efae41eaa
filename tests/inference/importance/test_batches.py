from __future__ import annotations

import pytest
import torch

from inference.importance.scoring import gather, shard
from inference.processes import Processes
from inference.tracing import seed_of


class Table(Processes):
    """Processes that are all this one; `gather` knows what each of them has to say."""

    def gather(self, value):
        return self.said

    def hear(self, said):
        object.__setattr__(self, "said", said)
        return self


def batches(number: int):
    return [(torch.full((2, 3, 1, 1, 1), float(index)), torch.ones(2, 3, dtype=torch.bool)) for index in range(number)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, 4, 6])
def test_every_batch_is_dealt_once_and_collected_in_order(count, number):
    hands = [list(shard(batches(number), 5, Processes(rank, count))) for rank in range(count)]
    found = [[batch.episode.flatten()[0].item() for batch in hand] for hand in hands]
    assert gather(found[0], Table(0, count).hear(found)) == list(range(number))


def test_a_batch_is_the_same_whoever_gets_it():
    alone = list(shard(batches(5), 5))
    for rank in range(2):
        for shared, batch in zip(shard(batches(5), 5, Processes(rank, 2)), alone[rank::2], strict=True):
            assert torch.equal(shared.episode, batch.episode) and shared.seed == batch.seed
            assert (shared.before is None) == (batch.before is None)
            if batch.before is not None:
                assert torch.equal(shared.before, batch.before) and shared.before.max() == batch.episode.max() - 1
    assert alone[0].before is None
    assert len({batch.seed for batch in alone}) == 5


def test_seeds_are_of_all_numbers_and_their_order():
    seeds = {seed_of(*numbers) for numbers in [(0,), (0, 0), (0, 1), (1, 0), (1, 1), (11,), (1, 2**62)]}
    assert len(seeds) == 7 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, 1) == seed_of(0, 1)
