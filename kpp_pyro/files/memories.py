"""Memory files: a memory tensor and the fingerprint of the model that wrote it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from kpp_pyro.files.tensors import TensorFile

_FILE = TensorFile("memory", "a memory")


def save_memory(path: Path | str, memory: Tensor, author: str) -> None:
    """Write memories and the fingerprint of the model that wrote them, atomically.

    Args:
        path: the file.
        memory: (..., C_m, H_m, W_m).
        author: fingerprint of the model.

    Raises:
        OutputError: the folder does not exist or cannot be written to.
    """
    _FILE.save(path, {"memory": memory}, author=author)


def load_memory(path: Path | str) -> tuple[Tensor, str]:
    """Read memories (..., C_m, H_m, W_m) and the fingerprint of the model that wrote them.

    Raises:
        InputError: the file is missing, corrupt, not a memory file of this project, or of another version.
    """
    tensors, metadata = _FILE.load(path, "memory")
    return tensors["memory"], metadata.get("author", "")
