"""The data set `folder`: pictures with or without class folders, and with or without train/, test/ and validation/.

Held-out pictures are decoded once (`decode_pictures`). Training pictures stay on disk: the worker processes of
`FolderSampler` decode the next episodes during a training step.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from kpp_pyro.arguments import checked
from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.decoding import Decoder, Decoding, Unreadable
from kpp_pyro.data.images import SOME_SET, LabelledImages, Origin
from kpp_pyro.data.notes import note_beside, note_flat
from kpp_pyro.data.picture_files import is_grey, suffixes
from kpp_pyro.data.picture_folders import picture_names
from kpp_pyro.data.repeats import contents_of_files
from kpp_pyro.data.sampler import (
    EpisodeOrder,
    OptionalBinarization,
    PixelRule,
    Rendering,
    TrainingEpisodes,
    require_optional_binarization,
    require_positive,
)
from kpp_pyro.data.splitting import SPLITS, complete_splits
from kpp_pyro.errors import InputError
from kpp_pyro.progress import show_progress

_NO_FOLDER = "; --dataset folder takes a folder of pictures, with or without train/, test/ and validation/ in it"
# Names that others give to splits. Their pictures would be taken for a class of their own, or for none.
_OTHER_NAMES = {
    **{split: split for split in SPLITS},  # in capitals
    **{"training": "train", "testing": "test", "val": "validation", "valid": "validation"},
}
_ROW_LENGTH = 32  # held-out pictures that a worker decodes at a time
_SILENT_SECONDS = 3.0  # before a progress bar is shown
_STEPS_AHEAD = 2  # training steps whose episodes are prefetched


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """The picture files of a split.

    Attributes:
        folder: of the split, with its class folders.
        names: of the files, relative to `folder`.
        labels: class number of each file, int64 (N,).
        origin: of the pictures.
        dark_on_light: invert the pictures when they are decoded.
    """

    folder: Path
    names: list[str]
    labels: Tensor
    origin: Origin = SOME_SET
    dark_on_light: bool = False

    def __len__(self) -> int:
        """Number of files."""
        return len(self.names)

    def select(self, index: Tensor) -> PictureFiles:
        """The files at `index`, int64 (n,)."""
        return replace(self, names=[self.names[number] for number in index.tolist()], labels=self.labels[index])

    def dense_classes(self) -> Tensor:
        """Labels renumbered 0, 1, 2, ... without gaps, int64 (N,)."""
        return self.labels.unique(return_inverse=True)[1]


@dataclass(frozen=True, eq=False)
class FolderSplits:
    """The disjoint training, validation and test pictures of a folder."""

    train: PictureFiles
    validation: PictureFiles
    test: PictureFiles

    def channels(self) -> int:
        """Channels of the images: 1 if all pictures are grey, else 3.

        Headers are read until one says colour (see `is_grey`); unreadable pictures do not count.
        """
        parts = (self.train, self.validation, self.test)
        paths = [files.folder / name for files in parts for name in files.names]
        bar = show_progress(paths, "looking for colours", unit="image", leave=False, delay=_SILENT_SECONDS)
        return 1 if all(_is_grey(path) for path in bar) else 3


@checked
def find_pictures(data_dir: Path | str, test_share: float | None = None, dark_on_light: bool = False) -> FolderSplits:
    """Find the pictures below `data_dir`/train, `data_dir`/test and `data_dir`/validation, or below `data_dir`.

    A class is a folder directly below a split, with all pictures in it at any depth. Pictures outside class folders
    form one more class. Hidden files and folders are ignored; a note on stderr names files of other types.

    Without test/, test pictures are held out of train/, or of all pictures in `data_dir` if there is no train/ either.
    Without validation/, validation pictures are held out of what is left (see `complete_splits`). Files of the same
    bytes are kept together. Notes on stderr say how many pictures each split then has, and whether files repeat.

    Args:
        data_dir: the folder.
        test_share: share of the pictures to hold out for the test, from 0 to 1; None: see `held_out_count`.
        dark_on_light: invert the pictures when they are decoded.

    Raises:
        InputError: a folder is missing, is none, cannot be read, or contains too few pictures; or a test share where
            there is test/.
    """
    data_dir = Path(data_dir)
    given = _given_splits(data_dir)
    found = _labelled({split: data_dir / split for split in given} or {"train": data_dir})
    parts = complete_splits(_contents(found), data_dir, test_share)
    return FolderSplits(
        **{
            split: replace(
                found[source].select(index),
                origin=Origin.of_split(split, data_dir, "more pictures or a shorter episode"),
                dark_on_light=dark_on_light,
            )
            for split, (source, index) in parts.items()
        }
    )


def _given_splits(data_dir: Path) -> list[str]:
    """The splits that a folder has; none if its pictures are to be split.

    Raises:
        InputError: a folder with another name of a split, whose pictures would be taken for something else.
    """
    given = [split for split in SPLITS if os.path.lexists(data_dir / split)]
    other = next((path.name for path in _folders_in(data_dir) if _OTHER_NAMES.get(path.name.lower())), None)
    if other is not None:
        expected = _OTHER_NAMES[other.lower()]
        raise InputError(f"{data_dir}: expected pictures of a split in {expected}/, found {other}/; rename it")
    if given:
        note_beside(data_dir, given, _beside(data_dir))
    return ["train", *given] if given and "train" not in given else given


def _beside(folder: Path) -> list[str]:
    """Names of the folders and pictures beside the splits of a folder, without hidden ones."""
    pictures = (path for path in _content_of(folder) if path.suffix.lower() in suffixes() and path.is_file())
    names = (path.name for path in (*_folders_in(folder), *pictures))
    return sorted(name for name in names if not name.startswith("."))


def _folders_in(folder: Path) -> list[Path]:
    """The folders directly below a folder that are no splits."""
    return [path for path in _content_of(folder) if path.is_dir() and path.name not in SPLITS]


def _content_of(folder: Path) -> list[Path]:
    """The files and folders directly below a folder; none if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):  # ValueError: a path with a null character
        return []


def _labelled(folders: dict[str, Path]) -> dict[str, PictureFiles]:
    """The files of some splits, by split, with one numbering of classes."""
    names = {split: picture_names(folder, _NO_FOLDER) for split, folder in folders.items()}
    classes = sorted({_class(name) for listed in names.values() for name in listed})
    numbers = {name: number for number, name in enumerate(classes)}
    labels = {split: torch.tensor([numbers[_class(name)] for name in listed]) for split, listed in names.items()}
    return {split: PictureFiles(folders[split], listed, labels[split]) for split, listed in names.items()}


def _class(name: str) -> str:
    """Name of the class folder of a file, or ""."""
    return name.split("/")[0] if "/" in name else ""


def _contents(found: dict[str, PictureFiles]) -> dict[str, Tensor]:
    """Numbers of the contents of the files of each split, see `contents_of_files`."""
    numbers = contents_of_files([files.folder / name for files in found.values() for name in files.names])
    return dict(zip(found, numbers.split([len(files) for files in found.values()]), strict=True))


def _is_grey(path: Path) -> bool:
    """Whether a picture is grey, or unreadable, which is an error only where there are many (see `Unreadable`)."""
    try:
        return is_grey(path)
    except InputError:
        return True


@checked
def decode_pictures(
    files: PictureFiles,
    image_size: int,
    workers: int,
    binarization: OptionalBinarization | None = None,
    channels: int = 1,
) -> LabelledImages:
    """Decode all readable pictures, with worker processes and a progress bar.

    Args:
        files: the pictures.
        image_size: H and W.
        workers: number of processes.
        binarization: "static" to binarize each image by its number, as `FolderSampler` does.
        channels: C, 1 for grey or 3 for RGB.

    Returns:
        Images, uint8 (N, C, H, W), in the order of the files.

    Raises:
        InputError: more than 1 % of the pictures are unreadable (see `Unreadable`).
    """
    image_shape = (channels, image_size, image_size)
    decoder = Decoder(
        files.folder, files.names, image_shape, binarization == "static", dark_on_light=files.dark_on_light
    )
    unreadable = Unreadable(files.folder, len(files))
    images = torch.empty(len(files), *image_shape, dtype=torch.uint8)
    rows = torch.arange(len(files)).split(_ROW_LENGTH)
    with (
        Decoding(decoder, rows, _ROW_LENGTH, min(workers, len(rows))) as decoding,
        show_progress(label=f"decoding {files.folder.name}", total=len(files), unit="image", leave=False) as bar,
    ):
        for row, decoded in zip(rows, decoding, strict=True):
            images[row] = decoded.pixels
            unreadable.note(row, decoded.failures)
            bar.update(len(row))
    unreadable.summarize()
    readable = torch.ones(len(files), dtype=torch.bool)
    readable[list(unreadable.reasons)] = False
    return LabelledImages(images[readable], files.labels[readable], files.origin)


class FolderSampler(TrainingEpisodes):
    """An endless stream of random training episodes of T distinct pictures, which worker processes prefetch.

    The order is that of `EpisodeSampler`, but `draw` returns pixels. The first draw starts the workers. Only
    the pictures of the next steps are in memory; every pass over the pictures decodes them again.

    Unreadable pictures are counted, and the first ten are named. The substitute of an unreadable picture is, in order:
    another picture that is not in the episode; a copy of a picture of the episode; a black image. If
    `classes_per_episode` is given, the other picture is of the episode's classes. The choice depends on the episode
    alone. More than 1 % of unreadable pictures are an error, see `Unreadable`.

    Binarization "static" draws an image's bits by its number in the split (`binarize_alone`). With "static",
    `augment` moves the binarized images; otherwise it moves the images before they are binarized. With "none", pixels
    are intensities k / 255, and only the augmentation is random.

    Args:
        files: the training pictures.
        image_size: H and W.
        workers: number of decoding processes.
        device: of the rendered episodes.
        episode_length: T.
        binarization: of the pixels, or "none".
        seed: of the order and of the pixels.
        classes_per_episode: number of distinct classes of each episode; classes are ignored if None.
        augment: shift and rotate the images at random.
        rank: of this process.
        ranks: number of processes that share the order.
        channels: C, 1 for grey or 3 for RGB.

    Raises:
        InputError: too few pictures for an episode, an unknown binarization, or no workers.
    """

    def __init__(
        self,
        files: PictureFiles,
        image_size: int,
        workers: int,
        device: torch.device,
        episode_length: int,
        binarization: OptionalBinarization,
        seed: int,
        classes_per_episode: int | None = None,
        augment: bool = False,
        rank: int = 0,
        ranks: int = 1,
        channels: int = 1,
    ) -> None:
        require_optional_binarization(binarization)
        require_positive("--workers", workers)
        classes = files.dense_classes()
        self.order = EpisodeOrder(classes, episode_length, seed, classes_per_episode, rank, ranks, files.origin)
        rule: PixelRule = "threshold" if binarization == "static" else binarization
        self.rendering = Rendering(rule, augment, classes_per_episode is not None, seed, rank, device)
        self.image_shape = (channels, image_size, image_size)
        self.unreadable = Unreadable(files.folder, len(files))
        self._files, self._workers, self._binarization, self._device = files, workers, binarization, device
        among = None if classes_per_episode is None else classes.numpy()
        self._decoder = Decoder(
            files.folder, files.names, self.image_shape, binarization == "static", True, among, files.dark_on_light
        )
        self._decoding: Decoding | None = None
        self._ahead: deque[tuple[dict[str, Tensor], Tensor]] = deque()  # prefetched rows, with the order before each

    def draw(self, num_episodes: int) -> Tensor:
        """Pixels of this process's next B = `num_episodes` episodes, uint8 (B, T, C, H, W) on the CPU.

        The pixels are in pinned memory if episodes are rendered on a GPU. The first draw prints a note on stderr if
        most of its pictures are one flat colour.

        Raises:
            InputError: `num_episodes` below 1, too many unreadable pictures, or a killed worker process.
        """
        require_positive("num_episodes", num_episodes)
        first = self._decoding is None
        decoding = self._decoding = self._decoding or self._begin(num_episodes)
        shape = (num_episodes, self.order.episode_length, *self.image_shape)
        drawn = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        try:
            for place in range(num_episodes):
                drawn[place] = self._next(decoding)
        except InputError:
            self.close()  # now, not when the error's traceback is collected
            raise
        if first:
            note_flat(self._files.origin.name, drawn.flatten(0, 1))
        return drawn

    def _begin(self, num_episodes: int) -> Decoding:
        """Start the workers, which prefetch the episodes of the next steps."""
        rows, length = _rows(self.order, self._ahead), self.order.episode_length
        ahead = max(2, math.ceil(_STEPS_AHEAD * num_episodes / self._workers))  # of each worker
        return Decoding(self._decoder, rows, length, self._workers, ahead)

    def _next(self, decoding: Decoding) -> Tensor:
        """Pixels of the next episode, (T, C, H, W)."""
        decoded = next(decoding)
        _, row = self._ahead.popleft()
        self.unreadable.note(row, decoded.failures)
        return decoded.pixels

    def render(self, drawn: Tensor) -> Tensor:
        """Episodes, float32 (B, T, C, H, W), from drawn pixels that were moved to the device."""
        return self.rendering(drawn)

    def _levels(self) -> Tensor:
        """All readable pictures, decoded."""
        channels, size, _ = self.image_shape
        pictures = decode_pictures(self._files, size, self._workers, self._binarization, channels)
        return pictures.images.to(self._device)

    def close(self) -> None:
        """End the workers. A later draw starts new ones and continues the order."""
        if self._decoding is not None:
            self._decoding.close()
            self._decoding = None
        if self._ahead:
            self.order.load_state_dict(self._ahead[0][0])
            self._ahead.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """All random state before the next episode that `draw` returns; prefetched episodes do not count."""
        order = self._ahead[0][0] if self._ahead else self.order.state_dict()
        return {**order, "pixels": self.rendering.generator.get_state()}


def _rows(order: EpisodeOrder, ahead: deque[tuple[dict[str, Tensor], Tensor]]) -> Iterator[Tensor]:
    """Endless rows of an order, recorded in `ahead`. Not a method: a reference would keep a deleted sampler alive."""
    while True:
        before = order.state_dict()
        (row,) = order.draw(1)
        ahead.append((before, row))
        yield row


DATASETS["folder"] = DataSource(None, own=True)
