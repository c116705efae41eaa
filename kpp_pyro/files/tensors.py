"""Tensors on disk: one safetensors file, which any reader of that format opens and none has to trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import atomic_write, writing

_VERSION = "1"


@dataclass(frozen=True)
class TensorFile:
    """A kind of file of this project.

    Attributes:
        kind: what its files hold, in a word.
        what: the same in a sentence.
    """

    kind: str
    what: str

    @property
    def format(self) -> str:
        """What a file says of itself."""
        return f"kpp_pyro.{self.kind}"

    def save(self, path: Path | str, tensors: Mapping[str, Tensor], **metadata: str) -> None:
        """Write tensors by their names, and texts about them, whole or not at all.

        Raises:
            InputError: a folder that is not there or cannot be written to.
        """
        path = Path(path)
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            with writing(path):
                marked = {"format": self.format, "version": _VERSION, **metadata}
                atomic_write(path, lambda file: save_file(content, file, marked))
        except SafetensorError as error:
            raise InputError(f"{path}: expected a file that can be written, found {error}") from error

    def load(self, path: Path | str, *names: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Read all tensors, `names` among them, and the texts about them.

        Raises:
            InputError: a missing, damaged or foreign file, or one of another version.
        """
        path, what = Path(path), self.what
        if not path.is_file():
            raise InputError(f"{path}: expected {what}, found no such file")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: expected {what}, found no safetensors file ({error})") from error
        if metadata.get("format") != self.format or not set(names) <= set(tensors):
            raise InputError(f"{path}: expected {what} of kpp_pyro, found another program's file")
        if metadata.get("version") != _VERSION:
            raise InputError(f"{path}: expected {self.kind} version {_VERSION}, found {metadata.get('version')}")
        return tensors, metadata
