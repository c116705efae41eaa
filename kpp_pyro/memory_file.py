"""Memories on disk: one safetensors file each, which any reader of that format opens and none has to trust."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kpp_pyro.errors import InputError
from kpp_pyro.files import write_whole, writing

FORMAT = "kpp_pyro.memory"
VERSION = "1"


def save_memory(path: Path | str, memory: Tensor, author: str) -> None:
    """Write memories (..., C_m, H_m, W_m) and the fingerprint of the model that they are of, whole or not at all.

    Raises:
        InputError: a folder that is not there or cannot be written to.
    """
    path = Path(path)
    metadata = {"format": FORMAT, "version": VERSION, "author": author}
    content = {"memory": memory.detach().cpu().contiguous()}
    try:
        with writing(path):
            write_whole(path, lambda file: save_file(content, file, metadata))
    except SafetensorError as error:
        raise InputError(f"{path}: expected a file that can be written, found {error}") from error


def load_memory(path: Path | str) -> tuple[Tensor, str]:
    """Read memories (..., C_m, H_m, W_m) and their author's fingerprint.

    Raises:
        InputError: a missing, damaged or foreign file, or one of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a memory, found no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            memory = file.get_tensor("memory") if "memory" in file.keys() else None  # noqa: SIM118, not a mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: expected a memory, found no safetensors file ({error})") from error
    if memory is None or metadata.get("format") != FORMAT:
        raise InputError(f"{path}: expected a memory of kpp_pyro, found another program's file")
    if metadata.get("version") != VERSION:
        raise InputError(f"{path}: expected memory version {VERSION}, found {metadata.get('version')}")
    return memory, metadata.get("author", "")
