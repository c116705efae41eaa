"""Claiming a folder, so that only one process trains in it."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kpp_pyro.errors import InputError, OutputError, reason
from kpp_pyro.files.atomic import remove_abandoned

LOCK = ".lock"
"""Name of the lock's file. It stays in the folder; the system releases the lock when its process ends."""
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOLCK, errno.ENOTSUP)


@contextmanager
def claimed(path: Path, flag: str = "--out", unique: bool = False) -> Iterator[Path]:
    """Make a folder and hold its lock, so that no other process claims it meanwhile.

    A folder that was made here is removed at the end if it still is empty.

    Args:
        path: the folder.
        flag: name of the folder in error messages.
        unique: take a new folder: PATH, or the first of PATH-2, PATH-3, ... that does not exist.

    Returns:
        The folder.

    Raises:
        InputError: a folder that another process has claimed, or a place where no folder can be.
        OutputError: a full disk, or one without locks.
    """
    made: list[Path] = []
    lock: FileLock | None = None
    try:
        with _refusing(path, flag):
            str(path.resolve()).encode()  # of names that are not UTF-8, TensorBoard writes no files
            made = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
            if unique:
                path = _make_unique(path)
                made = [path, *made]
            path.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path)
            lock = FileLock(path / LOCK)
            try:
                lock.acquire(blocking=False)
            except Timeout as error:
                made = []  # the folder is the other process's now
                taken = f"{flag} {path}: expected a folder of this process, found one that another uses"
                raise InputError(taken) from error
        yield path
    finally:
        with suppress(OSError):  # the folder may have been removed meanwhile
            if made and {file.name for file in path.iterdir()} <= {LOCK}:
                _remove(path, made)
        if lock is not None:
            lock.release()


@contextmanager
def _refusing(path: Path, flag: str) -> Iterator[None]:
    """Inside this context, what prevents a claim becomes a sentence."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # not UTF-8, a null character; a loop of links
        kind = OutputError if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE else InputError
        raise kind(f"{flag} {path}: expected a folder that can be written, found {reason(error)}") from error


def _make_unique(path: Path) -> Path:
    """Make the first of PATH, PATH-2, PATH-3, ... that does not exist; making it is atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise AssertionError("unreachable")


def _remove(path: Path, made: list[Path]) -> None:
    """Remove an empty folder with its lock, and those parents that were made for it and are empty."""
    (path / LOCK).unlink(missing_ok=True)
    for folder in dict.fromkeys([path, *made]):
        if folder.exists():
            folder.rmdir()
