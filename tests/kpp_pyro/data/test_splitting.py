"""Held-out images: how many, which, and that the same content is in one split."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kpp_pyro.data.splitting import complete_splits, held_out_count
from kpp_pyro.errors import InputError


@pytest.mark.parametrize(
    ("count", "held_out"), [(20, 4), (240, 48), (320, 64), (639, 64), (700, 70), (60_000, 6_000), (500_000, 10_000)]
)
def test_a_tenth_is_held_out_but_more_of_few(count: int, held_out: int) -> None:
    assert held_out_count(count) == held_out


def test_a_share_is_exact() -> None:
    assert [held_out_count(300, share) for share in (0.001, 0.1, 0.5)] == [1, 30, 150]


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_every_image_is_in_one_split_and_so_is_every_content(copies: int) -> None:
    contents = torch.arange(100).repeat(copies)
    parts = {split: index for split, (_, index) in complete_splits({"train": contents}, "here").items()}
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(100 * copies))
    found: list[Tensor] = [contents[index].unique() for index in parts.values()]
    assert len(torch.cat(found).unique()) == sum(map(len, found)) == 100
    assert all(torch.equal(index, index.sort().values) for index in parts.values())


def test_given_splits_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"train": torch.arange(30), "test": torch.arange(30, 35), "validation": torch.arange(35, 40)}
    assert all(
        source == split and index.tolist() == list(range(len(given[split])))
        for split, (source, index) in complete_splits(given, "here").items()
    )
    assert capsys.readouterr().err == ""
    complete_splits({**given, "test": torch.tensor([3, 4, 90])}, "here")
    note = "note: here: 38 images are 36 different ones that repeat; 2 of these are in more than one split\n"
    assert capsys.readouterr().err == note


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        (torch.arange(19), "expected 20 different images or more, to hold some of them out, found 19"),
        (torch.zeros(50).long(), "expected 20 different images or more, to hold some of them out, found 1"),
    ],
)
def test_too_few_different_images_are_refused(contents: Tensor, found: str) -> None:
    with pytest.raises(InputError, match=f"^here: {found}$"):
        complete_splits({"train": contents}, "here")


def test_a_share_that_leaves_too_few_is_refused() -> None:
    expected = (
        r"^--test-share: expected one that leaves at least 2 images of here for the test and {} others, found {}$"
    )
    with pytest.raises(InputError, match=expected.format(10, r"0\.9, which leaves 45 and 5")):
        complete_splits({"train": torch.arange(50)}, "here", test_share=0.9)
    with pytest.raises(InputError, match=expected.format(10, r"0\.001, which leaves 1 and 59")):
        complete_splits({"train": torch.arange(60)}, "here", test_share=0.001)
    with pytest.raises(InputError, match=expected.format(2, r"0\.99, which leaves 59 and 1")):
        complete_splits({"train": torch.arange(60), "validation": torch.arange(60, 70)}, "here", test_share=0.99)
