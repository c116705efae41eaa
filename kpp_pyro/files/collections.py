"""The folder of a collection: blocks and names in safetensors files, listed by one JSON file.

    collection.json                               what the collection is, and the names of its files
    blocks-00000-3f2a90c100c1d2e3.safetensors     blocks (slots, R, C_m, h, w), and the name of the image in each slot
    sample-5b1c7f20a1b2c3d4.safetensors           a few images as they were written, to calibrate with

A tensor file never changes: its name has a digest of its content. So a save writes the new files first, then
replaces collection.json, and removes the old files last. A save that is interrupted loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from pydantic import Field, ValidationError
from torch import Tensor

from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import atomic_write, make_folder, writing
from kpp_pyro.files.reading import as_path, reading, whole_path
from kpp_pyro.files.tensors import TensorFile
from kpp_pyro.schema import Count, FileContent, Natural, check, parse_json

_LIST, _LOCK = "collection.json", ".lock"
_NAME = re.compile(r"(blocks-\d{5}|sample)-([0-9a-f]{16})\.safetensors")
_FILES = {
    "blocks": TensorFile("blocks", "blocks of a collection"),
    "images": TensorFile("sample", "a sample of images"),
}
_LARGEST = 1e6  # absolute value in a block, as in a memory


class CollectionList(FileContent):
    """The content of collection.json.

    Attributes:
        author: fingerprint of the model that wrote the blocks.
        images: number of images.
        next_number: name of the next image without a name.
        block_shape: (R, C_m, h, w).
        files: of the blocks, in the order of the slots.
        sample: file of some of the images as they were written, to calibrate with; None if there are none.
        seen: number of images that the sample was chosen from.
        calibration: of the probabilities; None before there is one.
        changes: number of images that were written and removed since the calibration.
    """

    format: Literal["kpp_pyro.collection"] = "kpp_pyro.collection"
    version: Literal[1] = 1
    author: str
    images: Natural
    next_number: Natural
    block_shape: list[Count] = Field(min_length=4, max_length=4)
    files: list[str] = Field(default_factory=list)
    sample: str | None = None
    seen: Natural = 0
    calibration: dict[str, Any] | None = None
    changes: Natural = 0


@dataclass(frozen=True, eq=False)
class Shard:
    """Tensors with names.

    Attributes:
        values: blocks of some slots, (slots, R, C_m, h, w); or images, (n, C, H, W).
        names: of the image in each slot, None for a free slot; or of each image.
    """

    values: Tensor
    names: list[str | None]


@dataclass(frozen=True, eq=False)
class SavedCollection:
    """The folder of a collection.

    Attributes:
        listed: the content of collection.json.
        shards: blocks.
        sample: some of the images as they were written; None if there are none.
        digest: of collection.json, by which a later save knows that nobody else has saved since; "" before the first.
    """

    listed: CollectionList
    shards: list[Shard]
    sample: Shard | None
    digest: str = ""


def write_collection(path: Path | str, saved: SavedCollection) -> str:
    """Write the folder of a collection. `saved.digest` is that of the collection in the folder, "" if there is none.

    Returns:
        The digest of the new collection.json.

    Raises:
        InputError: the folder holds something else, or a collection with another digest.
        OutputError: a file cannot be written.
    """
    folder = whole_path(as_path(path, "a folder for a collection"))
    inside = {file.name for file in folder.iterdir()} - {_LOCK} if folder.is_dir() else set()
    if (folder.exists() and not folder.is_dir()) or (inside and _LIST not in inside):
        raise InputError(f"{path}: expected a collection or an empty folder, found something else")
    make_folder(folder)
    with writing(folder), FileLock(folder / _LOCK):
        before = _content(folder / _LIST) if (folder / _LIST).exists() else b""
        if _digest(before) != saved.digest:
            found = "another one, or one that was saved elsewhere since; load it again" if before else "none"
            raise InputError(f"{path}: expected the collection that was loaded from there, found {found}")
        files = [_write(folder, f"blocks-{number:05}", "blocks", shard) for number, shard in enumerate(saved.shards)]
        sample = saved.sample and _write(folder, "sample", "images", saved.sample)
        listed = saved.listed.model_copy(update={"files": files, "sample": sample})
        content = (listed.model_dump_json(indent=2) + "\n").encode()
        atomic_write(folder / _LIST, content)
        for old in _listed_files(before) - {*files, sample}:
            (folder / old).unlink(missing_ok=True)
    return _digest(content)


def read_collection(path: Path | str) -> SavedCollection:
    """Read the folder of a collection. Blocks are mapped from their files: they do not fill the machine's memory.

    Raises:
        InputError: no collection, a file that is missing or damaged, or files that do not fit together.
    """
    folder = whole_path(as_path(path, "a collection"))
    content, expected = _content(folder / _LIST), f"{folder / _LIST}: expected the list of a collection"
    listed = parse_json(content, CollectionList, expected)
    shards = [_read(folder, name, "blocks", tuple(listed.block_shape)) for name in listed.files]
    sample = None if listed.sample is None else _read(folder, listed.sample, "images")
    names = [name for shard in shards for name in shard.names if name is not None]
    if len(names) != listed.images or len(set(names)) != len(names):
        found = f"{len(names)} in its files, {len(set(names))} of them different"
        raise InputError(f"{expected} of {listed.images} names, found {found}")
    return SavedCollection(listed, shards, sample, _digest(content))


class _Names(FileContent):
    names: list[str | None]


def _content(path: Path) -> bytes:
    with reading(path, "the list of a collection") as file:
        return file.read()


def _listed_files(content: bytes) -> set[str]:
    """Names of the files of a collection that is about to be replaced; of a damaged one, none."""
    try:
        listed = CollectionList.model_validate_json(content)
    except ValidationError:
        return set()
    return {name for name in [*listed.files, listed.sample or ""] if _NAME.fullmatch(name)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if content else ""


def _write(folder: Path, name: str, kind: str, shard: Shard) -> str:
    """Write a file of blocks or of images, unless it is there; returns its name."""
    values, names = shard.values.cpu().contiguous(), json.dumps(shard.names)
    file = f"{name}-{_digest_of(values, names)}.safetensors"
    if not (folder / file).exists():
        _FILES[kind].save(folder / file, {kind: values}, names=names)
    return file


def _read(folder: Path, name: str, kind: str, shape: tuple[int, ...] | None = None) -> Shard:
    """Read a file of blocks or of images, and check it against the digest in its name."""
    path, match = folder / name, _NAME.fullmatch(name)
    if not match:
        raise InputError(f"{folder / _LIST}: expected names of files such as blocks-00000-..., found {name!r:.100}")
    tensors, metadata = _FILES[kind].load(path, kind)
    values, text, expected = tensors[kind], metadata.get("names", ""), f"{path}: expected one name for each slot"
    if _digest_of(values, text) != match[2]:
        raise InputError(f"{path}: expected the content that its name has a digest of, found another content")
    names = check({"names": _json(text, expected)}, _Names, expected).names
    if values.ndim < 2 or len(values) != len(names) or (shape and (values.shape[1:] != shape)):
        found = f"{tuple(values.shape)} and {len(names)} names"
        raise InputError(f"{path}: expected {kind} (slots, {', '.join(map(str, shape or '...'))}), found {found}")
    if shape and (values.dtype != torch.float32 or not (values.abs() <= _LARGEST).all()):  # refuses NaN, too
        raise InputError(f"{path}: expected float32 numbers of at most {_LARGEST:g}, found others")
    return Shard(values, names)


def _digest_of(values: Tensor, names: str) -> str:
    digest = hashlib.sha256(names.encode())
    digest.update(values.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _json(text: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{expected}, found no JSON") from error
