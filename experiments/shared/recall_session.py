"""What `recall.py` does with a collection: changes it, and shows what cues recall."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.shared.pictures import for_model
from inference.collection.collection import Collection
from inference.collection.options import IndexName
from inference.collection.records import Recalled
from inference.runs.config import naming
from inference.runs.load import Run
from kpp_pyro.data.picture_files import picture_size, read_picture
from kpp_pyro.data.picture_folders import named_pictures
from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import atomic_write
from kpp_pyro.plots.recall import plot_matches

_READ_BACK = 256  # pictures to read back after a write, at most
_SHOWN_CUES = 12  # in the figure


def open_collection(run: Run, new: Path | None, old: Path | None, index: IndexName) -> Collection:
    """A new collection, or one that is loaded.

    Args:
        run: whose model writes and reads.
        new: folder for a new collection (--out).
        old: folder of a collection (--collection), if there is no `new`.
        index: how contents are searched.

    Raises:
        InputError: a model without blocks, no collection, or a folder for a new one that holds something.
    """
    if new is None:
        assert old is not None
        return Collection.load(old, run.memory, index)
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise InputError(f"--out: expected a new or empty folder (--collection adds to a collection), found {new}")
    return Collection(run.memory, index)


def write_pictures(run: Run, collection: Collection, path: Path, dark_on_light: bool) -> str:
    """Write the pictures of a folder or a file; returns how many, and how well they are read back, in words."""
    with naming("--write"):
        names, images = pictures(run, path, dark_on_light)
        collection.write(images, names)
    distance, read = run.memory.distance, collection.read(names[:_READ_BACK])
    error = distance.between(read, images[:_READ_BACK].to(read.device)).mean().item()
    off = f"{error:.{distance.digits}f} {distance.words} {distance.per.replace('_', ' ')}"
    return f"{len(names)} written; read back with {off} on average"


def show_recall(
    collection: Collection, names: Sequence[str], cues: Tensor, recalled: Sequence[Recalled], folder: Path
) -> None:
    """Show what cues recalled: a table on standard output, and recall.json and recall.png in a folder.

    Args:
        collection: that they were recalled from.
        names: of the cues.
        cues: as they are to be shown, (n, C, H, W).
        recalled: for each cue.
        folder: of the files.
    """
    content = report(collection, names, recalled)
    print(describe(content))
    atomic_write(folder / "recall.json", (json.dumps(content, indent=2) + "\n").encode())
    plot_matches(rows_of(names, cues, recalled)[:_SHOWN_CUES], folder / "recall.png")
    print(folder / "recall.png")


def pictures(run: Run, path: Path, dark_on_light: bool) -> tuple[list[str], Tensor]:
    """Names and images (n, C, H, W) of a picture or of a folder, as the run's model takes them."""
    if not path.exists():
        raise InputError(f"{path}: expected a picture, or a folder of pictures, found none")
    names, images = named_pictures(path, run.memory.image_shape, dark_on_light)
    return names, for_model(images, run.memory)


def cues_of(run: Run, path: Path, mask: Path | None, dark_on_light: bool) -> tuple[list[str], Tensor, Tensor | None]:
    """Names and images (n, C, H, W) of cues; with a mask, which of their pixels are missing, bool (n, C, H, W).

    Args:
        run: whose model reads them.
        path: of a picture, or of a folder of pictures.
        mask: picture that is light where the cues lack something.
        dark_on_light: whether to invert the cues.

    Raises:
        InputError: no pictures, or a mask of another size than theirs.
    """
    with naming("--cue"):
        names, cues = pictures(run, path, dark_on_light)
    if mask is None:
        return names, cues, None
    with naming("--mask"):
        size = picture_size(mask)
    for name in names:
        cue = path / name if path.is_dir() else path
        if picture_size(cue) != size:
            width, height = picture_size(cue)
            expected = f"a picture of the size of {cue}, {width} x {height}"
            raise InputError(f"--mask: expected {expected}, found {mask} of {size[0]} x {size[1]}")
    _, height, width = run.memory.image_shape
    missing = read_picture(mask, (1, height, width)) > 0.5
    if missing.all():
        raise InputError(f"--mask: expected a known pixel, found none: {mask} is light everywhere")
    return names, cues, missing.expand(cues.shape)


def report(collection: Collection, cues: Sequence[str], recalled: Sequence[Recalled]) -> dict[str, Any]:
    """The content of recall.json."""
    calibration = collection.calibration
    return {
        "settings": {
            "images": len(collection),
            "memories": collection.memories,
            "capacity": collection.capacity,
            "calibration_images": calibration and calibration.images,
            "calibration_cues": calibration and calibration.cues,
        },
        "cues": [
            {
                "cue": cue,
                "never_written_probability": found.never_written,
                "matches": [
                    {"name": match.name, "memory": match.memory, "block": match.block, "probability": match.probability}
                    for match in found.matches
                ],
            }
            for cue, found in zip(cues, recalled, strict=True)
        ],
    }


def describe(content: dict[str, Any]) -> str:
    """The content of recall.json as text."""
    width = max(
        len("another picture"), *(len(printable(match["name"])) for cue in content["cues"] for match in cue["matches"])
    )
    lines = [f"{'cue':<20}  {'picture':<{width}}  {'probability':>11}  {'memory':>6}  {'block':>5}"]
    for cue in content["cues"]:
        rows = [(cue["never_written_probability"], "never written", "", "")]
        rows += [(match["probability"], match["name"], match["memory"], match["block"]) for match in cue["matches"]]
        rows += [(max(0.0, 1 - sum(row[0] for row in rows)), "another picture", "", "")]
        for turn, (probability, name, memory, block) in enumerate(sorted(rows, key=lambda row: -row[0])):
            shown = printable(cue["cue"]) if turn == 0 else ""
            lines.append(f"{shown:<20}  {printable(name):<{width}}  {probability:>11.4f}  {memory!s:>6}  {block!s:>5}")
    if content["settings"]["calibration_images"] is None:
        lines.append("These probabilities are guesses: to measure them takes two different pictures in the collection.")
    return "\n".join(lines)


def printable(name: str) -> str:
    """A name as one line of a table."""
    return name if name.isprintable() else repr(name)


def rows_of(
    names: Sequence[str], cues: Tensor, recalled: Sequence[Recalled]
) -> list[tuple[str, Tensor, list[tuple[str, Tensor]]]]:
    """For each cue: its name, its image, and captions and images of its matches."""
    return [
        (
            f"{name}\nnever written {found.never_written:.2f}",
            cue,
            [(f"{match.name}\n{match.probability:.2f}", match.image) for match in found.matches],
        )
        for name, cue, found in zip(names, cues, recalled, strict=True)
    ]
