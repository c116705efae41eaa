"""Checkpoints: tensors and plain data only, written whole or not at all, never unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import atomic_write

FORMAT = "kpp_pyro.checkpoint"
VERSION = 2


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state`, marked as this project's, whole or not at all."""
    content = {"format": FORMAT, "version": VERSION, **state}
    atomic_write(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint written by `save_checkpoint`, onto the CPU.

    Raises:
        InputError: a missing, truncated or foreign file, or one of another version.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint, found no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums of its own files
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what damaged bytes end in has no common base: IndexError, struct.error and more
        raise InputError(f"{path}: expected a checkpoint of kpp_pyro, found a truncated or foreign file") from error
    if damaged:
        raise InputError(f"{path}: expected a checkpoint of kpp_pyro, found wrong checksums: the file is damaged")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: expected a checkpoint of kpp_pyro, found another program's file")
    if state.get("version") != VERSION:
        raise InputError(f"{path}: expected checkpoint version {VERSION}, found {state.get('version')}")
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn what torch raises when a state does not fit a module into an InputError that names the checkpoint."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: expected a checkpoint of this run's model, found another ({reason})") from error
