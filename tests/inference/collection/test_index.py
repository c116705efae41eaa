"""The indexes, against all distances computed one by one."""

from __future__ import annotations

import pytest
import torch

from inference.collection.index import ExactIndex, FaissIndex


def some_points(count, size=6, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def nearest_by_hand(points, cue, free, count):
    """Slots in the order of their distance, without free ones."""
    distance = ((points - cue) ** 2).sum(-1).tolist()
    order = sorted(range(len(points)), key=distance.__getitem__)
    return [slot for slot in order if not free[slot]][:count]


@pytest.mark.parametrize("count", [1, 7, 20])
def test_the_exact_index_finds_the_nearest_points_of_all_shards(count):
    points, cues = some_points(50), some_points(5, seed=1)
    free = torch.zeros(50, dtype=torch.bool)
    free[[3, 17, 40]] = True
    found = ExactIndex(points.split(20)).search(cues, free, count)
    assert found.tolist() == [nearest_by_hand(points, cue, free, count) for cue in cues]


def test_slots_that_are_missing_are_minus_one():
    free = torch.tensor([False, True, False])
    found = ExactIndex([some_points(3)]).search(some_points(1, seed=1), free, 3)
    assert sorted(found[0].tolist()) == [-1, 0, 2]


def test_faiss_finds_most_of_the_nearest_points_and_no_free_ones():
    pytest.importorskip("faiss")
    points = some_points(4000, 16)
    cues = points[:50] + 0.1 * some_points(50, 16, seed=1)
    free = torch.zeros(4000, dtype=torch.bool)
    free[:10] = True
    found = FaissIndex(points.split(1500)).search(cues, free, 5)
    assert not torch.isin(found, torch.arange(10)).any()
    own = (found == torch.arange(50).unsqueeze(-1)).any(-1)
    assert own[10:].float().mean() >= 0.95
