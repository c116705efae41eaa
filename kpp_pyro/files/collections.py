"""The folder of a collection: blocks and names in safetensors files, listed by one JSON file.

    collection.json                       what the collection is, and the names of its files
    blocks-00000-3f2a90c1.safetensors     blocks (slots, R, C_m, h, w), and the name of the image in each slot

A file of blocks never changes: its name has a digest of its content. So a save writes the new files first, then
replaces collection.json, and removes the old files last. A save that is interrupted loses nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import atomic_write, make_folder, writing
from kpp_pyro.files.reading import as_path, reading
from kpp_pyro.files.tensors import TensorFile
from kpp_pyro.schema import Count, FileContent, Natural, check, parse_json

_LIST, _PATTERN = "collection.json", "blocks-*.safetensors"
_FILE = TensorFile("blocks", "blocks of a collection")


class CollectionList(FileContent):
    """The content of collection.json.

    Attributes:
        author: fingerprint of the model that wrote the blocks.
        images: number of images.
        next_number: name of the next image without a name.
        block_shape: (R, C_m, h, w).
        files: of the blocks, in the order of the slots.
        calibration: of the probabilities; None before there is one.
    """

    format: Literal["kpp_pyro.collection"] = "kpp_pyro.collection"
    version: Literal[1] = 1
    author: str
    images: Natural
    next_number: Natural
    block_shape: list[Count] = Field(min_length=4, max_length=4)
    files: list[str]
    calibration: dict[str, Any] | None = None


class _Names(FileContent):
    names: list[str | None]


@dataclass(frozen=True, eq=False)
class Shard:
    """Blocks of some slots, (slots, R, C_m, h, w), and the name of the image in each; None for a free slot."""

    blocks: Tensor
    names: list[str | None]


def write_collection(path: Path | str, content: CollectionList, shards: Iterable[Shard]) -> None:
    """Write the folder of a collection; `content.files` is set by this function.

    Raises:
        InputError: the folder holds something else.
        OutputError: a file cannot be written.
    """
    folder = as_path(path, "a folder for a collection")
    if folder.exists() and not (folder / _LIST).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a collection or an empty folder, found something else")
    make_folder(folder)
    files = [_write_shard(folder, number, shard) for number, shard in enumerate(shards)]
    listed = content.model_copy(update={"files": files})
    atomic_write(folder / _LIST, (listed.model_dump_json(indent=2) + "\n").encode())
    with writing(folder):
        for old in folder.glob(_PATTERN):
            if old.name not in files:
                old.unlink()


def read_collection(path: Path | str) -> tuple[CollectionList, list[Shard]]:
    """Read the folder of a collection. Blocks are mapped from their files, and read when they are needed.

    Raises:
        InputError: no collection, a file that is missing or damaged, or files that do not fit together.
    """
    folder = as_path(path, "a collection")
    expected = f"{folder / _LIST}: expected the list of a collection"
    with reading(folder / _LIST, "the list of a collection") as file:
        content = parse_json(file.read(), CollectionList, expected)
    shards = [_read_shard(folder, name, content) for name in content.files]
    names = [name for shard in shards for name in shard.names if name is not None]
    if len(names) != content.images or len(set(names)) != len(names):
        found = f"{len(names)} in its files, {len(set(names))} of them different"
        raise InputError(f"{expected} of {content.images} names, found {found}")
    return content, shards


def _write_shard(folder: Path, number: int, shard: Shard) -> str:
    names = json.dumps(shard.names)
    digest = hashlib.sha256(names.encode())
    digest.update(shard.blocks.contiguous().numpy().data)
    file = f"blocks-{number:05}-{digest.hexdigest()[:16]}.safetensors"
    if not (folder / file).exists():
        _FILE.save(folder / file, {"blocks": shard.blocks}, names=names)
    return file


def _read_shard(folder: Path, name: str, content: CollectionList) -> Shard:
    path = folder / name
    if not path.match(_PATTERN) or Path(name).name != name:
        raise InputError(f"{folder / _LIST}: expected names of files such as {_PATTERN}, found {name!r:.100}")
    tensors, metadata = _FILE.load(path, "blocks")
    blocks, expected = tensors["blocks"], f"{path}: expected one name for each slot"
    names = check({"names": _json(metadata.get("names", ""), expected)}, _Names, expected).names
    if list(blocks.shape[1:]) != content.block_shape or len(blocks) != len(names):
        found = f"{tuple(blocks.shape)} and {len(names)} names"
        raise InputError(f"{path}: expected blocks (slots, {', '.join(map(str, content.block_shape))}), found {found}")
    return Shard(blocks, names)


def _json(text: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{expected}, found no JSON") from error
