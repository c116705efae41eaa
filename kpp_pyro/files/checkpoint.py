"""Checkpoints of tensors and plain data: written atomically, loaded without executing pickled code."""

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
    """Write `state` atomically, with this project's format name and version.

    Args:
        path: the file.
        state: tensors and plain data.
    """
    content = {"format": FORMAT, "version": VERSION, **state}
    atomic_write(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint written by `save_checkpoint`, onto the CPU.

    Raises:
        InputError: the file is missing, truncated, not a checkpoint of this project, or of another version.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint, found no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            bad_member = archive.testzip()  # torch does not check the checksums of its files
        state = None if bad_member else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # invalid bytes raise IndexError, struct.error and more, which share no base class
        raise InputError(f"{path}: expected a checkpoint of kpp_pyro, found a truncated or foreign file") from error
    if bad_member:
        raise InputError(f"{path}: expected a checkpoint of kpp_pyro, found wrong checksums: the file is corrupt")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: expected a checkpoint of kpp_pyro, found another program's file")
    if state.get("version") != VERSION:
        raise InputError(f"{path}: expected checkpoint version {VERSION}, found {state.get('version')}")
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Inside this context, torch's errors for a state that does not fit a module become an `InputError`.

    Args:
        path: the checkpoint, which the message names.
    """
    try:
        yield
    except InputError:
        raise
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: expected a checkpoint of this run's model, found another ({reason})") from error
