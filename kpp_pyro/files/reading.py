"""Opening files: whatever stands at a path, it is read or named in one sentence."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kpp_pyro.errors import InputError, reason

MOST_UNPACKED_BYTES = 2**31
"""A compressed file that announces more than this is refused: data sets are held in memory."""
_MOST_BYTES = 255  # of a name in the file systems of Linux and macOS
_MOST_EXPANSION = 1032  # largest ratio of deflate, of gzip and MATLAB files


@contextmanager
def reading(path: Path | str, expected: str) -> Iterator[BinaryIO]:
    """Open a regular file; an `OSError` inside this context becomes an `InputError`.

    Args:
        path: the file.
        expected: noun phrase for the error message, such as "a picture".

    Raises:
        InputError: the file is missing, no regular file (a pipe would block), or cannot be read.
    """
    path = as_path(path, expected)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            found = "a folder" if os.path.isdir(path) else "a pipe or a device"
            raise InputError(f"{path}: expected {expected}, found {found}")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: expected {expected}, found none ({reason(error)})") from error


def as_path(path: Path | str, expected: str = "a path") -> Path:
    """The path, as an object of `Path`.

    Args:
        path: of a file or a folder.
        expected: noun phrase for the error message, such as "a picture".

    Raises:
        InputError: no path, an empty one, or one that no file can have.
    """
    if not isinstance(path, str | os.PathLike) or (isinstance(path, str) and not path):
        raise InputError(f"path: expected {expected}, found {path!r:.100}")
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: expected {expected}, found a path with a null character")
    try:
        longest = max((len(os.fsencode(part)) for part in Path(path).parts), default=0)
    except UnicodeEncodeError as error:
        raise InputError(f"{str(path)!r}: expected {expected}, found characters that no name can have") from error
    if longest > _MOST_BYTES:
        raise InputError(f"{path!s:.60}...: expected {expected}, found a name of {longest} bytes")
    return Path(path)


def require_unpackable(path: Path | str, announced_bytes: int, packed_bytes: int) -> None:
    """Raise InputError if a compressed file cannot hold what its header announces, or if that is too much for memory.

    Args:
        path: the file.
        announced_bytes: bytes of its content, unpacked.
        packed_bytes: bytes of the file.
    """
    most = min(MOST_UNPACKED_BYTES, packed_bytes * _MOST_EXPANSION)
    if announced_bytes > most:
        raise InputError(
            f"{path}: expected at most {most} bytes, unpacked from {packed_bytes}, "
            f"found a header that announces {announced_bytes}"
        )


def whole_path(path: Path | str) -> Path:
    """The absolute path without links, and with a leading ~ or ~user replaced.

    Raises:
        InputError: an unknown user, or a path with a null character.
    """
    expanded = os.path.expanduser(path)
    if str(expanded).startswith("~"):
        raise InputError(f"{path}: expected the name of a user after ~, found one without a home folder")
    as_path(expanded)
    try:
        expanded.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{str(path)!r}: expected a path of Unicode characters, found other bytes") from error
    return Path(os.path.realpath(expanded))
