"""Splits of images that come without them: how many are held out, and which; the same content is in one split."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kpp_pyro.data.notes import note_split
from kpp_pyro.data.repeats import note_repeats
from kpp_pyro.errors import InputError

SPLITS = ("train", "validation", "test")

USUAL_EPISODE_LENGTH = 32
"""T where nothing is said of it and a data set is large enough."""
_SHORTEST_EPISODE = 2  # images
_FEWEST = {"test": 20, "validation": 10}  # different images that a split is held out of
MOST_HELD_OUT = 10_000
SPLIT_SEED = 0


def complete_splits(
    contents: Mapping[str, Tensor], source: object, test_share: float | None = None
) -> dict[str, tuple[str, Tensor]]:
    """Hold the splits that are missing out of the training images: first test, then validation.

    Notes on stderr say how many images each split has if some were held out, and whether images repeat.

    Args:
        contents: number of the content of each image, int64 (N,), by split; "train" is one of them.
        source: of the images, for messages.
        test_share: share of the images to hold out for the test; None: see `held_out_count`.

    Returns:
        For each of `SPLITS`, the split of `contents` that its images are from, and their numbers there, int64 (n,).

    Raises:
        InputError: too few different images, or a test share that leaves too few or is given beside test images.
    """
    if test_share is not None and "test" in contents:
        raise InputError(f"--test-share: expected none, since {source} has test images, found {test_share}")
    parts = {split: (split, torch.arange(len(numbers))) for split, numbers in contents.items()}
    missing = {split: fewest for split, fewest in _FEWEST.items() if split not in contents}
    for split, fewest in missing.items():
        _, train = parts["train"]
        count = held_out_count(len(train), test_share if split == "test" else None)
        rest, held_out = _hold_out(contents["train"][train], count, source, fewest)
        parts["train"], parts[split] = ("train", train[rest]), ("train", train[held_out])
        if split == "test" and test_share is not None:
            others = _FEWEST["validation"] if "validation" in missing else _SHORTEST_EPISODE
            _require_usable_share(test_share, source, (len(held_out), len(rest)), (_SHORTEST_EPISODE, others))
    if missing:
        note_split(source, {split: len(index) for split, (_, index) in parts.items()})
    note_repeats(source, [contents[given][index] for given, index in parts.values()])
    return {split: parts[split] for split in SPLITS}


def _require_usable_share(test_share: float, source: object, found: tuple[int, int], fewest: tuple[int, int]) -> None:
    """Raise InputError unless a share leaves enough images, for the test and others."""
    if found[0] < fewest[0] or found[1] < fewest[1]:
        expected = f"one that leaves at least {fewest[0]} images of {source} for the test and {fewest[1]} others"
        raise InputError(
            f"--test-share: expected {expected}, found {test_share}, which leaves {found[0]} and {found[1]}"
        )


def held_out_count(count: int, share: float | None = None) -> int:
    """How many of `count` images to hold out.

    Without a `share` it is a tenth of them, at most `MOST_HELD_OUT`; of fewer than 640 images it is 64, enough for two
    episodes, but at most a fifth: 6,000 of 60,000, 64 of 400, and 48 of 240.
    """
    if share is not None:
        return max(1, round(share * count))
    return max(min(count // 10, MOST_HELD_OUT), min(2 * USUAL_EPISODE_LENGTH, count // 5))


def _hold_out(contents: Tensor, count: int, source: object, fewest: int) -> tuple[Tensor, Tensor]:
    """Choose about `count` images at random, with `SPLIT_SEED`. Images of the same content stay together.

    Args:
        contents: number of the content of each image, int64 (N,); equal numbers are equal images.
        count: how many to hold out; some more if images repeat.
        source: of the images, for messages.
        fewest: smallest number of different images.

    Returns:
        Image numbers of the rest and of the held-out images, both sorted, int64.

    Raises:
        InputError: too few different images.
    """
    found, numbers, sizes = contents.unique(return_inverse=True, return_counts=True)
    if len(found) < fewest:
        raise InputError(
            f"{source}: expected {fewest} different images or more, to hold some of them out, found {len(found)}"
        )
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(SPLIT_SEED)).flip(0)
    needed = int((sizes[order].cumsum(0) < count).sum()) + 1
    chosen = torch.isin(numbers, order[:needed])
    if bool(chosen.all()):
        raise InputError(f"{source}: expected more images than are held out, found {len(contents)}, most of them equal")
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
