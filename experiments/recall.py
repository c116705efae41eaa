"""A memory for one's own pictures: write any number of them, and find the one that a cue is a copy of.

python experiments/recall.py runs/mnist --write DRAWINGS --out drawings.memory      # a new collection
python experiments/recall.py runs/mnist --collection drawings.memory --cue noisy.png
python experiments/recall.py runs/mnist --collection drawings.memory --cue torn.png --mask hole.png
python experiments/recall.py runs/mnist --collection drawings.memory --write MORE --remove old/3.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from experiments.shared.arguments import RunArguments
from experiments.shared.command_line import parse
from experiments.shared.script import run_script
from inference.collection.options import Candidates, IndexName
from kpp_pyro.errors import InputError
from kpp_pyro.schema import Count


@dataclass(frozen=True)
class Arguments(RunArguments):
    """Write pictures to a collection of memories, and recall from it the picture that a cue is a copy of.

    A cue may be noisy, or lack a part that --mask shows; it has to be aligned to the pixel. The answer is a table of
    the most probable pictures, with the memory and the block of each, and the probability that the cue was never
    written. COLLECTION/recall.json and COLLECTION/recall.png hold it.
    """

    write: Path | None = None
    """Pictures to write: a folder, with its sub-folders, or a file. Their names are those of the files."""
    remove: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """Names of pictures to remove."""
    out: Path | None = None
    """Folder of a new collection."""
    collection: Path | None = None
    """Folder of a collection, to recall from or to change."""
    cue: Path | None = None
    """Picture to recall: a file, or a folder of several."""
    mask: Path | None = None
    """Picture of what the cues lack, of their size: pixels lighter than mid-grey are missing."""
    dark_on_light: bool = False
    """Invert all pictures: models of drawings are trained on light strokes on a dark ground. A run that was itself
    trained with this flag inverts them without it."""
    matches: Annotated[Count, tyro.conf.arg(metavar="N")] = 5
    """Pictures to show for each cue, at most --candidates."""
    candidates: Candidates = 256
    """Pictures of similar content that are compared with each cue. More find more, and take longer."""
    index: IndexName = "auto"
    """Search of contents: exact, by a matrix product; faiss, by an approximate index (pip install -e ".[index]"); auto:
    faiss for more than 250,000 pictures if it is installed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    require_valid(arguments)
    from experiments.shared.pictures import describe_size
    from experiments.shared.recall_session import cues_of, open_collection, show_recall, write_pictures
    from inference.runs.config import naming

    run = arguments.load()
    collection = open_collection(run, arguments.out, arguments.collection, arguments.index)
    folder = arguments.out or arguments.collection
    assert folder is not None
    invert = arguments.dark_on_light or run.config.data.dark_on_light
    cue = arguments.cue and cues_of(run, arguments.cue, arguments.mask, invert)  # before any change
    with naming("--remove"):
        for name in arguments.remove:
            collection.remove(name)
    written = arguments.write and write_pictures(run, collection, arguments.write, invert)
    if arguments.write or arguments.remove:
        collection.save(folder)
        if written:
            print(written)
        print(f"{describe_size(collection)}: {folder}")
    if cue:
        names, cues, missing = cue
        recalled = collection.recall(cues, missing, arguments.matches, arguments.candidates)
        shown = cues if missing is None else cues.masked_fill(missing, 0.5)
        show_recall(collection, names, shown, recalled, folder)
    return 0


def require_valid(arguments: Arguments) -> None:
    """Raise InputError unless the flags say what to do, and with which collection."""
    if (arguments.out is None) == (arguments.collection is None):
        found = "neither" if arguments.out is None else "both"
        raise InputError(f"--out, --collection: expected one of the two, a new collection or an old one, found {found}")
    if arguments.out and not arguments.write:
        raise InputError("--out: expected pictures for the new collection (--write FOLDER), found none")
    if not (arguments.write or arguments.remove or arguments.cue):
        raise InputError("--write, --cue, --remove: expected at least one of them, found none")
    if arguments.mask and not arguments.cue:
        raise InputError("--mask: expected a cue that it is the mask of (--cue FILE), found none")


command = partial(run_script, main)

if __name__ == "__main__":
    sys.exit(command())
