"""NumPy's .npy and .npz files of images and labels. They are never unpickled."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from kpp_pyro.errors import InputError, reason
from kpp_pyro.files.reading import reading, require_unpackable


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some arrays of an .npz file, by name.

    Args:
        path: the file.
        names: of the arrays.

    Raises:
        InputError: no .npz file, a missing array, one of Python objects, or more than the file can hold. The message
            names file and array.
    """
    with _opened(path) as content:
        _require_names(path, content, names)
        assert content.zip is not None  # until it is closed
        announced = sum(content.zip.getinfo(f"{name}.npy").file_size for name in names)
        require_unpackable(path, announced, os.stat(path).st_size)
        return {name: _array(path, content, name) for name in names}


def array_names(path: Path) -> list[str]:
    """Names of all arrays of an .npz file, sorted.

    Raises:
        InputError: no .npz file.
    """
    with _opened(path) as content:
        return sorted(content.files)


def read_npy(path: Path) -> np.ndarray:
    """The array of an .npy file, left on the disk until its values are used.

    Raises:
        InputError: no .npy file, one of Python objects, or one that is shorter than its header says.
    """
    with reading(path, "an .npy file"):
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except Exception as error:  # many types, depending on which byte is wrong
            raise InputError(f"{path}: expected an .npy file of numbers, found {_fault(error)}") from error


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    with reading(path, "an .npz file") as file:
        try:
            with NpzFile(file, allow_pickle=False) as content:
                yield content
        except InputError:
            raise
        except Exception as error:  # zipfile raises many types, depending on which byte is wrong
            raise InputError(f"{path}: expected an .npz file, found a corrupt or foreign one") from error


def channels_last_images(path: Path, name: str, array: np.ndarray) -> Tensor:
    """Images of an array (N, 32, 32, 3): uint8 (N, 3, 32, 32).

    Raises:
        InputError: another type or shape.
    """
    if array.dtype != np.uint8 or array.shape[1:] != (32, 32, 3) or array.size == 0:
        raise InputError(f"{path}: expected '{name}' to be uint8 (N, 32, 32, 3), found {described(array)}")
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def class_labels(path: Path, name: str, array: np.ndarray, count: int | None = None) -> Tensor:
    """Class numbers of an array (N,): int64.

    Args:
        path: the file, for messages.
        name: of the array, for messages.
        array: whole numbers below 2^63.
        count: N, or None for any number.

    Raises:
        InputError: another type or shape.
    """
    too_large = array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any()
    if array.dtype.kind not in "iu" or too_large or array.ndim != 1 or count not in (None, len(array)):
        expected = f"({'N' if count is None else count},)"
        raise InputError(f"{path}: expected '{name}' to be whole numbers {expected}, found {described(array)}")
    return torch.from_numpy(array.astype(np.int64))


def described(array: np.ndarray) -> str:
    """Type and shape of an array, for messages."""
    return f"{array.dtype} {array.shape}"


def _require_names(path: Path, content: NpzFile, names: Sequence[str]) -> None:
    for name in names:
        if name not in content.files:
            found = ", ".join(sorted(content.files)) or "no arrays at all"
            raise InputError(f"{path}: expected the array '{name}', found {found}")


def _array(path: Path, content: NpzFile, name: str) -> np.ndarray:
    try:
        return np.asarray(content[name])
    except Exception as error:  # ValueError for Python objects, and what zipfile and zlib raise
        raise InputError(f"{path}: expected '{name}' to be an array of numbers, found {_fault(error)}") from error


def _fault(error: Exception) -> str:
    """What NumPy's error says of an array, in plain words if it is one of Python objects."""
    is_of_objects = "Python objects" in str(error) or "allow_pickle" in str(error)
    return "Python objects, which are never unpickled" if is_of_objects else reason(error)
