"""MATLAB's .mat files of images and labels (version 4 or 5)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import reading, require_unpackable


def read_mat(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """The arrays of these keys, as they are, and the names of all others.

    Args:
        path: the file.
        keys: of the arrays.

    Raises:
        InputError: the file is missing, none of MATLAB, or announces more than it can hold. The message names it.
    """
    from scipy.io import loadmat, whosmat

    with reading(path, "a MATLAB file") as file:
        try:
            announced = {name: math.prod(map(int, shape)) for name, shape, _ in whosmat(file)}
            values = sum(announced.get(key, 0) for key in keys)  # each takes a byte or more
            require_unpackable(path, values, os.fstat(file.fileno()).st_size)
            file.seek(0)
            return dict.fromkeys(announced) | loadmat(file, variable_names=keys)
        except InputError:
            raise
        except Exception as error:  # scipy raises many types, depending on which byte is wrong
            raise InputError(f"{path}: expected a MATLAB file, found a corrupt or foreign one") from error


def require_key(path: Path, content: Mapping[str, Any], key: str) -> None:
    """Raise InputError, which names the keys that are there, unless a file has a key."""
    if key not in content:
        found = ", ".join(sorted(name for name in content if not name.startswith("__")))
        raise InputError(f"{path}: expected the key '{key}', found {found or 'no keys at all'}")
