"""The pictures of one browser of `explore.py`: uploaded, written to a collection, shown by memory, and found again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

import torch
from torch import Tensor

from experiments.shared.pictures import for_model
from inference.collection.collection import Collection
from inference.collection.records import Recalled
from kpp_pyro.data.picture_files import read_picture
from kpp_pyro.errors import InputError

MOST_FILES = 1000  # of an upload
MOST_FILE_SIZE = "20mb"


class OwnPictures:
    """A collection in the machine's memory, and its pictures as they were written.

    Args:
        collection: to write to; one that was loaded has its blocks, not its pictures.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._written: dict[str, Tensor] = {}

    def write(self, files: Sequence[Path], dark_on_light: bool) -> tuple[list[str], Tensor]:
        """Write picture files; returns the names that they got, and the images (n, C, H, W).

        Raises:
            InputError: too many files, or one that is no picture; then nothing is written.
        """
        if len(files) > MOST_FILES:
            raise InputError(f"upload: expected at most {MOST_FILES:,} files at once, found {len(files):,}")
        images = self._read(files, dark_on_light)
        names = self.collection.write(images, self._new_names(files))
        self._written.update(zip(names, images, strict=True))
        return names, images

    def find(self, file: Path, dark_on_light: bool) -> tuple[Tensor, Recalled]:
        """The cue (C, H, W) of a picture file, and what it recalls.

        Raises:
            InputError: nothing was written yet, or a file that is no picture.
        """
        if not len(self.collection):
            raise InputError("find: expected pictures to search, found none; write some first")
        cue = self._read([file], dark_on_light)[0]
        return cue, self.collection.recall(cue)[0]

    def episode(self, number: int) -> tuple[list[str], Tensor]:
        """Names and images (n, C, H, W) of a memory; of a loaded memory, what its blocks are read as.

        Raises:
            InputError: a memory whose pictures were all removed.
        """
        names = self.collection.names_in(number)
        if not names:
            raise InputError(f"memory {number}: expected pictures, found none; they were removed")
        read = for_model(self.collection.read(names), self.collection.trained)
        return names, torch.stack([self._written.get(name, image) for name, image in zip(names, read, strict=True)])

    def _read(self, files: Sequence[Path], dark_on_light: bool) -> Tensor:
        """Images (n, C, H, W) of files; errors name a file without the folder that uploads are kept in."""
        trained, images = self.collection.trained, []
        for file in files:
            try:
                images.append(read_picture(file, trained.image_shape, dark_on_light))
            except InputError as error:
                raise InputError(str(error).replace(str(file), file.name)) from error
        return for_model(torch.stack(images), trained).to(trained.device)

    def _new_names(self, files: Sequence[Path]) -> list[str]:
        """Names of the files, with a number where the collection has such a name already."""
        names: dict[str, None] = {}  # in order
        for file in files:
            numbered = chain([file.name], (f"{file.stem} ({number}){file.suffix}" for number in count(2)))
            names[next(name for name in numbered if name not in self.collection and name not in names)] = None
        return list(names)
