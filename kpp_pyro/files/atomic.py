"""Atomic writes, and `OutputError` for files that cannot be written."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kpp_pyro.errors import OutputError, reason
from kpp_pyro.files.reading import as_path

_PARTIAL = ".partial"
_ABANDONED_SECONDS = 24 * 3600  # age from which no writer can still be at work on a temporary file


def atomic_write(path: Path | str, content: bytes | memoryview) -> None:
    """Write a file atomically: fill a temporary file beside it, which is then renamed to `path`.

    The temporary name is this call's own, so that several writers do not disturb each other. On an error, `path` is
    unchanged and the temporary file is removed. The content is made in memory first, since the libraries of tensors,
    netCDF and pictures differ in how they fail on a full disk; some end the process. Where `path` is a link, the file
    that it points at is written.

    Raises:
        OutputError: the file cannot be written, or is no file, such as a folder or a device.
    """
    path = Path(os.path.realpath(as_path(path, "a file to write")))
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: expected a file that can be written, found something else")
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")
    with writing(path):
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files that killed processes have left in a folder more than a day ago."""
    for file in folder.rglob(f".*{_PARTIAL}"):
        with suppress(OSError):  # another process removes it too
            if time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                file.unlink()


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it exists.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: expected a folder, or a place for one, found {reason(error)}") from error


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Inside this context, an `OSError` becomes an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: expected a file that can be written, found {reason(error)}") from error
