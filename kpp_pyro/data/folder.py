"""Any tree of pictures as a data set: train/, test/ and, if there is one, validation/, with or without class folders.

Held-out pictures are decoded once, into memory; training pictures stay on disk, and `FolderSampler` has worker
processes decode the next episodes while a step is taken.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.decoding import Decoder, Decoding, Unreadable
from kpp_pyro.data.images import LabelledImages
from kpp_pyro.data.picture_files import SUFFIXES
from kpp_pyro.data.sampler import EpisodeOrder, Rendering, require_keys, require_positive
from kpp_pyro.errors import InputError
from kpp_pyro.likelihoods.bernoulli import Binarization, require_binarization

SPLIT_SEED = 0
MOST_VALIDATION_IMAGES = 10_000
_AT_ONCE = 32  # held-out pictures that a worker decodes at a time
_STEPS_AHEAD = 2  # steps of training whose episodes are decoded before they are asked for


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """The files of a split, on disk.

    Attributes:
        folder: where they are, with their class folders.
        names: of the files, relative to `folder`.
        labels: class number of each, int64 (N,).
    """

    folder: Path
    names: list[str]
    labels: Tensor

    def __len__(self) -> int:
        """Number of files."""
        return len(self.names)

    def select(self, index: Tensor) -> PictureFiles:
        """The files at `index`, int64 (n,)."""
        return PictureFiles(self.folder, [self.names[number] for number in index.tolist()], self.labels[index])

    def dense_classes(self) -> Tensor:
        """The labels renumbered 0, 1, 2, ... without gaps, (N,)."""
        return self.labels.unique(return_inverse=True)[1]


@dataclass(frozen=True, eq=False)
class FolderSplits:
    """The pictures of a folder in three parts: to fit, to choose by, and to report."""

    train: PictureFiles
    validation: PictureFiles
    test: PictureFiles


def find_pictures(data_dir: Path | str) -> FolderSplits:
    """Find the pictures below `data_dir`/train, `data_dir`/test and `data_dir`/validation.

    A picture's class is the folder right below these that it is in, at any depth; those in none are a class of their
    own. Hidden files and folders, and files of other kinds, are left alone. Without a folder validation/ a tenth of the
    training pictures, chosen with `SPLIT_SEED`, and at most `MOST_VALIDATION_IMAGES`, are held out.

    Raises:
        InputError: a folder is missing, cannot be read, or holds no picture.
    """
    data_dir = Path(data_dir)
    wanted = ["train", "test", *(["validation"] if (data_dir / "validation").is_dir() else [])]
    names = {split: _find(data_dir / split) for split in wanted}
    classes = sorted({_class(name) for listed in names.values() for name in listed})
    numbers = {name: number for number, name in enumerate(classes)}
    found = {
        split: PictureFiles(data_dir / split, listed, torch.tensor([numbers[_class(name)] for name in listed]))
        for split, listed in names.items()
    }
    if "validation" in found:
        return FolderSplits(found["train"], found["validation"], found["test"])
    train, validation = _hold_out(found["train"])
    return FolderSplits(train, validation, found["test"])


def _find(folder: Path) -> list[str]:
    """Names of all pictures below a folder, relative to it, sorted.

    Links to folders are followed where nothing else leads to the same place; of several such links, the one that is
    nearest to the folder, then the first by name.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder of pictures, found none; --dataset folder needs train/ and test/"
        )
    names = []
    for place, files in _walk(folder):
        inside = Path(place).relative_to(folder)
        pictures = [name for name in files if os.path.splitext(name)[1].lower() in SUFFIXES]
        names += [(inside / name).as_posix() for name in pictures if not name.startswith(".")]
    if not names:
        raise InputError(f"{folder}: expected pictures ({', '.join(sorted(SUFFIXES))}), found none")
    return sorted(names)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below, each once under one name, with their files; hidden ones are left out."""
    tops, seen = deque([str(folder)]), set[str]()
    while tops:
        for place, folders, files in os.walk(tops.popleft(), onerror=_refuse):  # links wait until it is through
            if (real := os.path.realpath(place)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            tops += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
            yield place, files


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: expected a folder that can be read, found none ({error.strerror})") from error


def _class(name: str) -> str:
    return name.split("/")[0] if "/" in name else ""


def _hold_out(training: PictureFiles) -> tuple[PictureFiles, PictureFiles]:
    """Training and validation pictures, both in the order of their names."""
    count = min(len(training) // 10, MOST_VALIDATION_IMAGES)
    if count == 0:
        raise InputError(
            f"{training.folder}: expected 10 pictures or more, to hold a tenth of them out, found {len(training)}"
        )
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return training.select(order[:-count].sort().values), training.select(order[-count:].sort().values)


def decode_pictures(
    files: PictureFiles, image_size: int, workers: int, binarization: Binarization | None = None
) -> LabelledImages:
    """Decode all pictures that can be read, with worker processes and a progress bar.

    Args:
        files: where they are.
        image_size: H and W.
        workers: number of processes.
        binarization: `static` to draw each image's bits as `FolderSampler` does.

    Returns:
        Images of one channel, (N, 1, H, W), in the order of the files.

    Raises:
        InputError: more than 1 % of them cannot be read.
    """
    decoder = Decoder(files.folder, files.names, image_size, binarization == "static")
    unreadable = Unreadable(files.folder, len(files))
    images = torch.empty(len(files), 1, image_size, image_size, dtype=torch.uint8)
    rows = torch.arange(len(files)).split(_AT_ONCE)
    with (
        Decoding(decoder, rows, _AT_ONCE, min(workers, len(rows))) as decoding,
        tqdm(total=len(files), unit="image", desc=f"decoding {files.folder.name}", leave=False) as bar,
    ):
        for row, decoded in zip(rows, decoding, strict=True):
            images[row] = decoded.pixels
            unreadable.note(row, decoded.failures)
            bar.update(len(row))
    unreadable.summarize()
    kept = torch.ones(len(files), dtype=torch.bool)
    kept[list(unreadable.reasons)] = False
    return LabelledImages(images[kept], files.labels[kept])


class FolderSampler:
    """Training episodes of T distinct pictures of a folder, drawn at random without end and decoded ahead.

    Has the interface of `EpisodeSampler` and the same order, but `draw` returns pixels: worker processes, which are
    started by the first draw, decode those of the next steps meanwhile, so that no more than these are in memory.
    Every pass over the pictures decodes them anew.

    A picture that cannot be read is named (the first ten), counted, and replaced in its episode by another one that is
    not in it, of the episode's classes if `classes_per_episode` is given; which one depends on the episode alone. Where
    no other is to be found, one of the episode stands in it twice; where that has none either, it is black. More than
    1 % of them are an error, see `Unreadable`.

    With `static` an image's bits are drawn once by its number in the split (`binarize_alone`), not by its place in a
    tensor of all images. `augment` moves the binarized images with `static`, and the grey ones otherwise.

    Args:
        files: the training pictures.
        image_size: H and W.
        workers: decoding processes.
        device: where episodes are rendered.
        episode_length: T.
        binarization: of the pixels.
        seed: of the order and of the pixels.
        classes_per_episode: draw that many distinct classes for each episode, and its images from those alone.
        augment: shift and rotate the images at random before they are binarized.
        rank: this process.
        ranks: number of processes that share the order.

    Raises:
        InputError: an episode that these pictures cannot fill, or an unknown binarization.
    """

    def __init__(
        self,
        files: PictureFiles,
        image_size: int,
        workers: int,
        device: torch.device,
        episode_length: int,
        binarization: Binarization,
        seed: int,
        classes_per_episode: int | None = None,
        augment: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        require_binarization(binarization)
        require_positive("--workers", workers)
        classes = files.dense_classes()
        self.order = EpisodeOrder(classes, episode_length, seed, classes_per_episode, rank, ranks)
        self.rendering = Rendering(
            "threshold" if binarization == "static" else binarization, augment, seed, rank, device
        )
        self.generators = [self.rendering.generator]
        self.image_shape = (1, image_size, image_size)
        self.unreadable = Unreadable(files.folder, len(files))
        self._files, self._workers, self._binarization, self._device = files, workers, binarization, device
        among = None if classes_per_episode is None else classes.numpy()
        self._decoder = Decoder(files.folder, files.names, image_size, binarization == "static", True, among)
        self._decoding: Decoding | None = None
        self._ahead: deque[tuple[dict[str, Tensor], Tensor]] = deque()  # rows under way, and the order before each

    def draw(self, num_episodes: int) -> Tensor:
        """Pixels of this process's next episodes, uint8 (B, T, 1, H, W) on the CPU, with B = `num_episodes`.

        They are in pinned memory if episodes are rendered on a GPU.

        Raises:
            InputError: no episodes, too many pictures that cannot be read, or a worker that was killed.
        """
        require_positive("num_episodes", num_episodes)
        decoding = self._decoding = self._decoding or self._begin(num_episodes)
        shape = (num_episodes, self.order.episode_length, *self.image_shape)
        drawn = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        try:
            for place in range(num_episodes):
                drawn[place] = self._next(decoding)
        except InputError:
            self.close()  # not when the error is forgotten
            raise
        return drawn

    def _begin(self, num_episodes: int) -> Decoding:
        rows, length = _rows(self.order, self._ahead), self.order.episode_length
        ahead = max(2, math.ceil(_STEPS_AHEAD * num_episodes / self._workers))  # of each worker
        return Decoding(self._decoder, rows, length, self._workers, ahead)

    def _next(self, decoding: Decoding) -> Tensor:
        decoded = next(decoding)
        _, row = self._ahead.popleft()
        self.unreadable.note(row, decoded.failures)
        return decoded.pixels

    def render(self, drawn: Tensor) -> Tensor:
        """Turn what was drawn, moved to the device, into episodes: float32 (B, T, 1, H, W) in {0, 1}."""
        return self.rendering(drawn)

    def sample(self, num_episodes: int) -> Tensor:
        """Draw and render: float32 (B, T, 1, H, W) in {0, 1} with B = `num_episodes`, on the device."""
        return self.render(self.draw(num_episodes).to(self._device))

    def thresholded(self) -> Tensor:
        """Every picture that can be read once, decoded now and cut at 1/2: bool (N, 1, H, W) on the device."""
        everything = decode_pictures(self._files, self.image_shape[-1], self._workers, self._binarization)
        return everything.images.to(self._device) > 127

    def close(self) -> None:
        """End the workers. Drawing goes on with new ones, where it stopped."""
        if self._decoding is not None:
            self._decoding.close()
            self._decoding = None
        if self._ahead:
            self.order.load_state_dict(self._ahead[0][0])
            self._ahead.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """All random state as of the next episode to be handed out, whatever has been decoded ahead."""
        order = self._ahead[0][0] if self._ahead else self.order.state_dict()
        return {**order, "pixels": self.rendering.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict()`.

        Raises:
            InputError: not the state of a sampler of as many pictures, or one that this device's generator cannot take.
        """
        require_keys(state, self.state_dict())
        self.rendering.load_state(state["pixels"])
        self.load_order(state)

    def load_order(self, state: dict[str, Tensor]) -> None:
        """Continue the order of another process's `state_dict()`, with pixels of one's own."""
        self.close()
        self.order.load_state_dict(state)


def _rows(order: EpisodeOrder, ahead: deque[tuple[dict[str, Tensor], Tensor]]) -> Iterator[Tensor]:
    """Rows of an order without end, noted in `ahead`; no method, so that nothing keeps a dropped sampler alive."""
    while True:
        before = order.state_dict()
        (row,) = order.draw(1)
        ahead.append((before, row))
        yield row


DATASETS["folder"] = DataSource(None)
