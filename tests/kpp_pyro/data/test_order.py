"""The order of training images: every image equally often, one order for any number of processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kpp_pyro.data.sampler import EpisodeOrder
from kpp_pyro.errors import InputError

CLASSES = torch.arange(50) % 5


def order(classes_per_episode: int | None = None, rank: int = 0, ranks: int = 1, seed: int = 3) -> EpisodeOrder:
    return EpisodeOrder(CLASSES, 8, seed, classes_per_episode, rank, ranks)


@pytest.mark.parametrize("classes_per_episode", [None, 2])
@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_out_the_rows_of_one_order(classes_per_episode: int | None, ranks: int) -> None:
    joint = order(classes_per_episode).draw(24)  # (24, 8)
    shares = [order(classes_per_episode, rank, ranks) for rank in range(ranks)]
    steps: list[list[Tensor]] = [[share.draw(2) for share in shares] for _ in range(24 // (2 * ranks))]
    for rank in range(ranks):
        assert torch.equal(torch.cat([step[rank] for step in steps]), joint[rank::ranks])


def test_no_image_comes_again_before_all_that_fill_rows_have_come() -> None:
    rows = order().draw(12)  # two shuffles of 6 rows; 2 of the 50 images are left over in each
    for shuffle in rows.split(6):
        assert len(shuffle.unique()) == 48
    assert not torch.equal(rows[:6], rows[6:])


@pytest.mark.parametrize("classes_per_episode", [None, 2])
@pytest.mark.parametrize("taken", [0, 1, 5, 6, 7, 12])
def test_an_order_goes_on_where_another_stood_with_any_number_of_processes(
    classes_per_episode: int | None, taken: int
) -> None:
    first = order(classes_per_episode)
    if taken:
        first.draw(taken)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    expected = first.draw(16)
    for rank in range(2):
        resumed = order(classes_per_episode, rank, ranks=2, seed=9)
        resumed.load_state_dict(state)
        assert torch.equal(resumed.draw(8), expected[rank::2])


@pytest.mark.parametrize("classes_per_episode", [None, 2])
@pytest.mark.parametrize("left", [20, 49])
def test_an_order_of_other_images_is_refused(classes_per_episode: int | None, left: int) -> None:
    first = order(classes_per_episode)
    first.draw(5)
    other = EpisodeOrder(CLASSES[:left], 8, 3, classes_per_episode)
    with pytest.raises(InputError, match=f"^training images: expected the 50 that the run began with, found {left}$"):
        other.load_state_dict(first.state_dict())


def test_with_classes_an_episode_is_a_uniform_draw_of_its_classes_images() -> None:
    rows = order(2).draw(4000)  # (4000, 8)
    often = rows.flatten().bincount(minlength=50).double()  # 4000 * 8 / 50 = 640 on average, deviation below 25
    assert (often - 640).abs().max() < 5 * 25
    together = CLASSES[rows].sort(-1).values
    assert all(1 <= len(row.unique()) <= 2 for row in together)
