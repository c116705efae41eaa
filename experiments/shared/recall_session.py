"""What `recall.py` does with a collection: changes it, and shows what cues recall."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from inference.collection.collection import Collection, Recalled
from inference.runs.load import Run
from inference.runs.rules import is_binary
from kpp_pyro.data.picture_folders import named_pictures
from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import atomic_write
from kpp_pyro.likelihoods.bernoulli import binarize
from kpp_pyro.plots.recall import plot_matches

if TYPE_CHECKING:
    from experiments.recall import Arguments

_READ_BACK = 256  # pictures to read back after a write, at most
_SHOWN_CUES = 12  # in the figure


def open_collection(run: Run, arguments: Arguments) -> Collection:
    """The collection of the command line: a new one, or one that is loaded.

    Raises:
        InputError: a model without blocks, no collection, or a folder for a new one that holds something.
    """
    if arguments.collection:
        return Collection.load(arguments.collection, run.memory, arguments.index)
    assert arguments.out is not None
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        raise InputError(
            f"--out: expected a new or empty folder, found {arguments.out}; --collection adds to a collection"
        )
    return Collection(run.memory, arguments.index)


def change(run: Run, collection: Collection, arguments: Arguments) -> None:
    """Remove and write the pictures of the command line, and say how well the new ones are read back."""
    for name in arguments.remove:
        collection.remove(name)
    if arguments.write:
        names, images = pictures(run, arguments.write, arguments.dark_on_light)
        collection.write(images, names)
        print(f"{len(names)} written; {_read_back(run, collection, names, images)}")


def show_recall(run: Run, collection: Collection, arguments: Arguments, folder: Path) -> None:
    """Recall the cues of the command line: a table on standard output, recall.json and recall.png in the collection."""
    assert arguments.cue is not None
    names, cues = pictures(run, arguments.cue, arguments.dark_on_light)
    missing = missing_pixels(run, arguments.mask).expand(cues.shape) if arguments.mask else None
    recalled = collection.recall(cues, missing, arguments.matches, arguments.candidates)
    content = report(collection, names, recalled, arguments)
    print(describe(content))
    atomic_write(folder / "recall.json", (json.dumps(content, indent=2) + "\n").encode())
    shown = cues if missing is None else cues.masked_fill(missing, 0.5)
    plot_matches(rows_of(names, shown, recalled)[:_SHOWN_CUES], folder / "recall.png")
    print(folder / "recall.png")


def pictures(run: Run, path: Path, dark_on_light: bool) -> tuple[list[str], Tensor]:
    """Names and images (n, C, H, W) of a picture or of a folder, as the run's model takes them."""
    names, images = named_pictures(path, run.memory.image_shape, dark_on_light)
    return names, binarize(images, "threshold") if is_binary(run.config) else images


def missing_pixels(run: Run, path: Path) -> Tensor:
    """Whether pixels are missing, bool (1, 1, H, W), of a picture that is light where they are."""
    _, height, width = run.memory.image_shape
    return named_pictures(path, (1, height, width))[1][:1] > 0.5


def report(
    collection: Collection, cues: Sequence[str], recalled: Sequence[Recalled], arguments: Arguments
) -> dict[str, Any]:
    """The content of recall.json."""
    calibration = collection.calibration
    return {
        "settings": {
            "images": len(collection),
            "memories": collection.memories,
            "capacity": collection.capacity,
            "candidates": arguments.candidates,
            "mask": arguments.mask and str(arguments.mask),
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
    width = max(len("never written"), *(len(match["name"]) for cue in content["cues"] for match in cue["matches"]))
    lines = [f"{'cue':<20}  {'picture':<{width}}  {'probability':>11}  {'memory':>6}  {'block':>5}"]
    for cue in content["cues"]:
        rows = [(cue["never_written_probability"], "never written", "", "")]
        rows += [(match["probability"], match["name"], match["memory"], match["block"]) for match in cue["matches"]]
        for turn, (probability, name, memory, block) in enumerate(sorted(rows, key=lambda row: -row[0])):
            shown = cue["cue"] if turn == 0 else ""
            lines.append(f"{shown:<20}  {name:<{width}}  {probability:>11.4f}  {memory!s:>6}  {block!s:>5}")
    return "\n".join(lines)


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


def _read_back(run: Run, collection: Collection, names: Sequence[str], images: Tensor) -> str:
    """How far the first written pictures are from what is read back, in words."""
    distance, first = run.memory.distance, names[:_READ_BACK]
    read = collection.read(first)
    error = distance.between(read, images[:_READ_BACK].to(read.device)).mean().item()
    return f"read back with {error:.{distance.digits}f} {distance.words} {distance.per.replace('_', ' ')} on average"
