"""Tensor files in the safetensors format: any safetensors reader opens them, and loading executes no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import atomic_write
from kpp_pyro.files.reading import reading

_VERSION = "1"
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True)
class TensorFile:
    """A type of tensor file.

    Attributes:
        kind: one word for the format name, such as "memory".
        description: noun phrase for error messages, such as "a memory".
    """

    kind: str
    description: str

    @property
    def format(self) -> str:
        """Format name in the file's metadata."""
        return f"kpp_pyro.{self.kind}"

    def save(self, path: Path | str, tensors: Mapping[str, Tensor], **metadata: str) -> None:
        """Write tensors and metadata atomically.

        Args:
            path: the file.
            tensors: by name.
            metadata: further texts by name.

        Raises:
            InputError: a tensor that is not dense or does not hold floats, or metadata that are not text.
            OutputError: the folder does not exist or cannot be written to.
        """
        for name, tensor in tensors.items():
            _require_dense_floats(f"{path}: {name}", tensor)
        if not all(isinstance(text, str) and text.isprintable() for text in metadata.values()):
            raise InputError(f"{path}: expected printable text for {', '.join(metadata)}, found something else")
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"format": self.format, "version": _VERSION, **metadata}
        atomic_write(path, save(content, header))

    def load(self, path: Path | str, *names: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Read all tensors and the metadata.

        Args:
            path: the file.
            names: tensors that the file must contain.

        Raises:
            InputError: the file is missing, corrupt, of another format or version, or lacks one of `names`.
        """
        with reading(path, self.description):
            pass
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: expected {self.description}, found no safetensors file ({error})") from error
        if metadata.get("format") != self.format or not set(names) <= set(tensors):
            raise InputError(f"{path}: expected {self.description} of kpp_pyro, found another program's file")
        if metadata.get("version") != _VERSION:
            raise InputError(f"{path}: expected {self.kind} version {_VERSION}, found {metadata.get('version')}")
        for name, tensor in tensors.items():
            _require_dense_floats(f"{path}: {name}", tensor)
        return tensors, metadata


def _require_dense_floats(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested or tensor.dtype not in _DTYPES:
        found = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
        raise InputError(f"{name}: expected a dense tensor of floats of 16, 32 or 64 bits, found {found}")
