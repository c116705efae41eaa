"""Atomic writes, and `InputError` for files that cannot be written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kpp_pyro.errors import InputError


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: `write` fills a temporary file beside `path`, which is then renamed to `path`.

    If `write` fails, `path` is unchanged and the temporary file is removed.

    Args:
        path: the file.
        write: writes the content to the path that it is called with.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Inside this context, an `OSError` becomes an `InputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written, found {error.strerror or error}") from error
