"""Claiming a folder, so that only one process writes to it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kpp_pyro.errors import InputError, reason
from kpp_pyro.files.atomic import remove_abandoned

LOCK = ".lock"
"""Name of the lock's file. It stays in the folder; the system releases the lock when its process ends."""


@contextmanager
def claimed(path: Path, flag: str = "--out", unique: bool = False) -> Iterator[Path]:
    """Make a folder and hold its lock; nothing else may write to it meanwhile.

    A folder that was made here is removed at the end if it still is empty.

    Args:
        path: the folder.
        flag: name of the folder in error messages.
        unique: take a new folder: PATH, or the first of PATH-2, PATH-3, ... that does not exist.

    Returns:
        The folder.

    Raises:
        InputError: a folder that another process writes to, or that cannot be made or written to.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
        str(path.resolve()).encode()  # of names that are not UTF-8, TensorBoard writes no files
        path = _make_unique(path) if unique else path
        path.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        lock = FileLock(path / LOCK)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InputError(f"{flag} {path}: expected a folder that no other process writes to, found one") from error
    except (OSError, ValueError) as error:  # ValueError: a null character, or bytes that are not UTF-8
        raise InputError(f"{flag} {path}: expected a folder that can be written, found {reason(error)}") from error
    try:
        yield path
    finally:
        if (missing or unique) and [file.name for file in path.iterdir()] == [LOCK]:
            _remove(path, missing)
        lock.release()


def _make_unique(path: Path) -> Path:
    """Make the first of PATH, PATH-2, PATH-3, ... that does not exist; making it is atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise AssertionError("unreachable")


def _remove(path: Path, missing: list[Path]) -> None:
    """Remove an empty folder with its lock, and those parents that were made for it and are empty."""
    with suppress(OSError):
        (path / LOCK).unlink()
        for folder in [path, *missing]:
            if folder.exists():
                folder.rmdir()
