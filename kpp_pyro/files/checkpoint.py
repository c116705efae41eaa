"""Checkpoints of tensors and plain data: written atomically, loaded without executing pickled code."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kpp_pyro.errors import InputError, reason
from kpp_pyro.files.atomic import atomic_write
from kpp_pyro.files.reading import reading
from kpp_pyro.schema import Schema, check, shown

FORMAT = "kpp_pyro.checkpoint"
VERSION = 2
_LARGEST = 1e12  # absolute value of a parameter or a moment: of larger ones, activations are not finite


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` atomically, with this project's format name and version.

    Args:
        path: the file.
        state: tensors and plain data.

    Raises:
        OutputError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **state}, buffer)
    atomic_write(path, buffer.getbuffer())


def read_checkpoint(path: Path, schema: type[Schema]) -> Schema:
    """Read a checkpoint whose state has a schema, see `load_checkpoint`.

    The schema says which tensors there are; `require_like` checks their shapes and values.

    Raises:
        InputError: as `load_checkpoint`, or another state.
    """
    return check(load_checkpoint(path), schema, f"{path}: expected a checkpoint of kpp_pyro")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint written by `save_checkpoint`, onto the CPU.

    Raises:
        InputError: the file is missing, truncated, not a checkpoint of this project, or of another version.
    """
    state = _load(path)
    if not isinstance(state, dict) or not _is(state.get("format"), FORMAT):
        raise InputError(f"{path}: expected a checkpoint of kpp_pyro, found another program's file")
    if not _is(state.get("version"), VERSION):
        raise InputError(f"{path}: expected checkpoint version {VERSION}, found {shown(state.get('version'))}")
    return state


def _is(found: object, expected: object) -> bool:
    """Equality of plain values; a tensor, which would be compared number by number, equals none."""
    return type(found) is type(expected) and found == expected


def _load(path: Path) -> Any:
    """The content of a checkpoint; reading it executes no code."""
    with reading(path, "a checkpoint") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                bad_member = archive.testzip()  # torch does not check the checksums of its files
            file.seek(0)
            state = None if bad_member else torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # invalid bytes raise IndexError, struct.error and more, which share no base class
            raise InputError(f"{path}: expected a checkpoint of kpp_pyro, found a truncated or foreign file") from error
    if bad_member:
        raise InputError(f"{path}: expected a checkpoint of kpp_pyro, found wrong checksums: the file is corrupt")
    return state


def require_like(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise InputError unless dense tensors have the names, shapes and dtypes of others, and no huge values.

    Args:
        found: by name.
        expected: by name.
        what: the tensors in words, for error messages, such as "parameters".
    """
    for name in sorted(expected.keys() ^ found.keys()):
        raise InputError(f"{what}: expected those of this run's model, found {name if name in found else f'no {name}'}")
    for name, tensor in found.items():
        like = expected[name]
        if (tensor.shape, tensor.dtype, tensor.layout) != (like.shape, like.dtype, like.layout):
            raise InputError(f"{what}: expected {name} to be {_described(like)}, found {_described(tensor)}")
        if not (tensor.abs() <= _LARGEST).all():  # refuses NaN, too
            raise InputError(f"{what}: expected finite numbers of at most {_LARGEST:g}, found others in {name}")


def _described(tensor: Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f" {tensor.layout}"
    return f"{tensor.dtype} {tuple(tensor.shape)}{layout}".replace("torch.", "")


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Inside this context, errors for a state that does not fit become an `InputError` that names the checkpoint.

    Args:
        path: the checkpoint.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected a checkpoint of this run, found another ({reason(error)})") from error
