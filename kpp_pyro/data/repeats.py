"""Images that are there more than once: files of the same bytes, and arrays of the same pixels."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kpp_pyro.progress import print_above_bars, show_progress

_SILENT_SECONDS = 3.0  # before a progress bar is shown
_TAIL_BYTES = 4096  # compared first: the ends of two pictures are seldom equal


def contents_of_files(paths: Sequence[Path]) -> Tensor:
    """Number of the content of each file, int64 (N,): equal numbers are files of the same bytes.

    Sizes are compared first, then the ends of files of one size, and whole files only if these are equal, too. Files
    that cannot be read count as different.
    """
    numbers = torch.arange(len(paths))
    of_one_size = _equal(range(len(paths)), lambda number: _size(paths[number]))
    for group in show_progress(of_one_size, "looking for repeats", leave=False, delay=_SILENT_SECONDS):
        for part in _equal(group, lambda number: _tail(paths[number])):
            for same in _equal(part, lambda number: _digest(paths[number])):
                numbers[same] = same[0]
    return numbers


def contents_of_images(splits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Number of the content of each image, uint8 (N, C, H, W): int64 (N,), by split; equal for equal pixels."""
    first = dict[bytes, int]()

    def number(image: np.ndarray) -> int:
        return first.setdefault(hashlib.blake2b(image.tobytes()).digest(), len(first))

    return {split: torch.tensor([number(image) for image in images.numpy()]) for split, images in splits.items()}


def note_repeats(source: object, splits: Sequence[Tensor]) -> None:
    """Print a note if images repeat, and how many contents are in more than one split.

    Args:
        source: of the images.
        splits: contents of the images of each split, see `contents_of_files`.
    """
    count, different = sum(map(len, splits)), len(torch.cat(list(splits)).unique())
    if count == different:
        return
    _, times = torch.cat([contents.unique() for contents in splits]).unique(return_counts=True)
    shared = int((times > 1).sum())
    where = f"{shared} of these are in more than one split" if shared else "each is in one split only"
    print_above_bars(f"note: {source}: {count} images are {different} different ones that repeat; {where}")


def _equal(numbers: Iterable[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    """The groups of two or more numbers with equal keys; a key of None equals no other."""
    groups: dict[Hashable, list[int]] = {}
    for number in numbers:
        found = key(number)
        if found is not None:
            groups.setdefault(found, []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def _size(path: Path) -> int | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _tail(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            file.seek(-min(_TAIL_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read()
    except OSError:
        return None


def _digest(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return None
