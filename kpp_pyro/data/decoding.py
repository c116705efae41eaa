"""Worker processes that decode pictures in a given order, ahead of being asked, and what they could not read."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import sys
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from kpp_pyro.data.picture_files import read_picture
from kpp_pyro.errors import InputError
from kpp_pyro.likelihoods.bernoulli import binarize_alone

MOST_UNREADABLE = 0.01  # of a split's images
_FEWEST_TRIED = 100  # images, before a part of a split says anything about all of it
_DEVIATIONS = 5  # of a count by chance
_NAMED = 10
_SUBSTITUTE_SEED = 1  # beside the numbers of the row
_TRIES = 100  # substitutes of a row: where as many cannot be read, there are too many anyhow


@dataclass(frozen=True)
class Decoded:
    """A row of images.

    Attributes:
        pixels: uint8 (T, 1, H, W); what a `Decoding` hands out is overwritten when the next row is asked for.
        failures: why an image cannot be read, by its number; a sentence that names the file.
    """

    pixels: Tensor
    failures: dict[int, str]


class Decoder(Dataset[Decoded]):
    """Reads rows of images by their numbers; what comes out depends on the row alone, whichever process reads it.

    Args:
        folder: of the files.
        names: of the files, relative to the folder.
        image_size: H and W.
        static: binarize each image with the bits of its number.
        substituted: put other images in the place of those that cannot be read; otherwise they are black.
        classes: of every image, (N,), to take only substitutes of the row's classes.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        image_size: int,
        static: bool,
        substituted: bool = False,
        classes: np.ndarray | None = None,
    ) -> None:
        self.folder, self.names, self.image_size = folder, names, image_size
        self.static, self.substituted, self.classes = static, substituted, classes

    def __getitem__(self, numbers: list[int]) -> Decoded:
        """Read the images of a row, T numbers."""
        failures = dict[int, str]()
        pixels = torch.zeros(len(numbers), 1, self.image_size, self.image_size, dtype=torch.uint8)
        missing = [place for place, number in enumerate(numbers) if not self._read(number, pixels[place], failures)]
        if self.substituted and missing:
            self._substitute(numbers, missing, pixels, failures)
        return Decoded(pixels, failures)

    def _substitute(self, numbers: list[int], missing: list[int], pixels: Tensor, failures: dict[int, str]) -> None:
        """Fill the places of a row that are missing."""
        candidates = islice(self._candidates(numbers), _TRIES)
        whole = [place for place in range(len(numbers)) if place not in missing]
        for turn, place in enumerate(missing):
            if not any(self._read(number, pixels[place], failures) for number in candidates) and whole:
                pixels[place] = pixels[whole[turn % len(whole)]]

    def _read(self, number: int, pixels: Tensor, failures: dict[int, str]) -> bool:
        """Read an image into `pixels` (1, H, W); whether it could be read."""
        try:
            intensities = read_picture(self.folder / self.names[number], (self.image_size, self.image_size))
        except InputError as error:
            failures[number] = str(error)
            return False
        image = (intensities * 255).round().to(torch.uint8)
        pixels[:] = binarize_alone(image, number) if self.static else image
        return True

    def _candidates(self, numbers: list[int]) -> Iterator[int]:
        """Images that may stand in for one of the row, from a place among them that the row decides."""
        if self.classes is None:
            among: Sequence[int] = range(len(self.names))
        else:
            among = np.flatnonzero(np.isin(self.classes, self.classes[numbers])).tolist()
        start = int(np.random.default_rng([_SUBSTITUTE_SEED, *numbers]).integers(len(among)))
        taken = set(numbers)
        walk = (among[(start + step) % len(among)] for step in range(len(among)))
        return (number for number in walk if number not in taken)


class _Slots(Dataset[tuple[int, int, dict[int, str]]]):
    """A decoder that leaves the pixels of a row in a slot of memory that all processes share, (slots, T, 1, H, W).

    A pipe would hold two episodes: whoever waits for more of them waits for the worker to be given a core.
    """

    def __init__(self, decoder: Decoder, shared: Tensor) -> None:
        self.decoder, self.shared = decoder, shared

    def __getitem__(self, request: tuple[int, list[int]]) -> tuple[int, int, dict[int, str]]:
        """Read a row into a slot: the slot, the length of the row, and what could not be read."""
        slot, numbers = request
        decoded = self.decoder[numbers]
        self.shared[slot, : len(numbers)] = decoded.pixels
        return slot, len(numbers), decoded.failures


class Decoding(Iterator[Decoded]):
    """Processes that read the rows of a decoder ahead of being asked; they come in the order of the rows.

    The processes end when this is closed, is no longer referred to, or when the program ends.

    Args:
        decoder: reads the rows.
        rows: image numbers, (T,) each; taken as far ahead as they are decoded.
        longest: T of the longest row.
        workers: number of processes.
        ahead: rows that each of them has in hand at most.
    """

    def __init__(self, decoder: Decoder, rows: Iterable[Tensor], longest: int, workers: int, ahead: int = 2) -> None:
        self._folder = decoder.folder
        slots, size = workers * ahead + 1, decoder.image_size  # one more: a row is begun before another is copied
        self._shared = torch.empty(slots, longest, 1, size, size, dtype=torch.uint8).share_memory_()
        requests = ((turn % slots, row.tolist()) for turn, row in enumerate(rows))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # more processes than cores are the user's business
            loader = DataLoader(
                _Slots(decoder, self._shared),
                batch_size=None,
                sampler=requests,  # type: ignore[arg-type]  # an iterable is enough
                num_workers=workers,
                collate_fn=_as_it_is,
                prefetch_factor=ahead,
                worker_init_fn=_begin_work,
                generator=torch.Generator(),  # it draws seeds, which are not the run's to lose
            )
            before = multiprocessing.active_children()
            self._results: Iterator[Any] | None = iter(loader)
            self._processes = [child for child in multiprocessing.active_children() if child not in before]
        atexit.register(_close, weakref.ref(self))  # before multiprocessing's own clean-up, which would wait

    def __enter__(self) -> Decoding:
        """Begin to read."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self.close()

    def __next__(self) -> Decoded:
        """Wait for the next row.

        Raises:
            InputError: one of the processes was killed.
        """
        if self._results is None:
            raise StopIteration
        try:
            slot, length, failures = next(self._results)
        except RuntimeError as error:
            if not is_lost_worker(error):
                raise
            raise InputError(f"{self._folder}: {describe_lost_worker(error)}") from error
        return Decoded(self._shared[slot, :length], failures)

    def __del__(self) -> None:
        """End the processes."""
        self.close()

    def close(self) -> None:
        """End the processes, though an error that was raised by them may still refer to them."""
        shut_down = getattr(getattr(self, "_results", None), "_shutdown_workers", None)
        self._results = None
        if shut_down is not None:
            shut_down()  # asks them, waits for five seconds, and sends a SIGTERM, which they leave to others
        for process in getattr(self, "_processes", ()):
            if process.is_alive():
                process.kill()
                process.join()
        self._processes = []


def is_lost_worker(error: RuntimeError) -> bool:
    """Whether this is what torch raises, wherever the program happens to be, when a worker process was killed."""
    return str(error).startswith("DataLoader worker")


def describe_lost_worker(error: RuntimeError) -> str:
    """What to do about it."""
    reason = str(error).strip().removesuffix(".")
    return f"expected every process that decodes to go on, found that {reason}; fewer --workers take less memory"


def _close(reference: weakref.ref[Decoding]) -> None:
    decoding = reference()
    if decoding is not None:
        decoding.close()


def _as_it_is(answer: Any) -> Any:
    return answer


def _begin_work(_number: int) -> None:
    """Leave Ctrl-C and SIGTERM, which a terminal and a job's manager send to all, to the process that asked."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # of PIL, about pictures that it reads nonetheless


class Unreadable:
    """The images of a split that could not be read: named, counted, and refused where they are too many.

    Too many are more than 1 % of the split. While a part of it has been tried, of 100 images or more, they are too many
    above 1 % of these and five standard deviations of such a count: above 6 of 100, 25 of 1,000, 150 of 10,000.

    Args:
        folder: of the split.
        num_images: that it should hold.

    Attributes:
        reasons: why an image cannot be read, by its number; a sentence that names the file.
    """

    def __init__(self, folder: Path, num_images: int) -> None:
        self.folder = folder
        self.reasons: dict[int, str] = {}
        self._tried = torch.zeros(num_images, dtype=torch.bool)

    def __len__(self) -> int:
        """Number of images that could not be read."""
        return len(self.reasons)

    def note(self, tried: Tensor, failures: Mapping[int, str]) -> None:
        """Take down which images were tried, and which of them could not be read.

        Raises:
            InputError: too many.
        """
        self._tried[tried] = True
        new = {number: reason for number, reason in failures.items() if number not in self.reasons}
        for number, reason in new.items():
            self.reasons[number] = reason
            self._tried[number] = True
            self._name(reason)
        if new:
            self._require_few()

    def summarize(self) -> None:
        """Say how many there are, if there are any."""
        if self.reasons:
            _say(f"{self.folder}: {len(self)} of {len(self._tried)} pictures cannot be read and are left out")

    def _name(self, reason: str) -> None:
        if len(self) <= _NAMED:
            _say(f"skipped unreadable picture {len(self)}: {reason}")
        if len(self) == _NAMED:
            _say(f"{self.folder}: more of them are counted without being named")

    def _require_few(self) -> None:
        tried = int(self._tried.sum())
        by_chance = MOST_UNREADABLE * tried + _DEVIATIONS * (MOST_UNREADABLE * tried) ** 0.5
        too_many_of_part = tried >= _FEWEST_TRIED and len(self) > by_chance
        if too_many_of_part or len(self) > MOST_UNREADABLE * len(self._tried):
            raise InputError(
                f"{self.folder}: expected at most {MOST_UNREADABLE:.0%} of the pictures to be unreadable, found "
                f"{len(self)} among {tried} of {len(self._tried)} tried, such as {next(iter(self.reasons.values()))}"
            )


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)  # above a progress bar, where there is one
