"""Memories on disk."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from kpp_pyro.files.tensors import TensorFile

_FILE = TensorFile("memory", "a memory")


def save_memory(path: Path | str, memory: Tensor, author: str) -> None:
    """Write memories (..., C_m, H_m, W_m) and the fingerprint of the model that they are of, whole or not at all.

    Raises:
        InputError: a folder that is not there or cannot be written to.
    """
    _FILE.save(path, {"memory": memory}, author=author)


def load_memory(path: Path | str) -> tuple[Tensor, str]:
    """Read memories (..., C_m, H_m, W_m) and their author's fingerprint.

    Raises:
        InputError: a missing, damaged or foreign file, or one of another version.
    """
    tensors, metadata = _FILE.load(path, "memory")
    return tensors["memory"], metadata.get("author", "")
