"""Writing files: whole or not at all, and refusing where nothing can be written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kpp_pyro.errors import InputError


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file beside `path`, then rename it; a failure leaves `path` as it was."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn what the system says to a file that cannot be written into an InputError that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written, found {error.strerror or error}") from error
