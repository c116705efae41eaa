"""Decoding of pictures by worker processes: rows of pictures, prefetched in a given order, and decoding errors."""

from __future__ import annotations

import atexit
import math
import mmap
import multiprocessing
import signal
import traceback
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kpp_pyro.data.picture_files import read_picture
from kpp_pyro.errors import InputError, reason
from kpp_pyro.likelihoods.bernoulli import binarize_alone
from kpp_pyro.progress import print_above_bars

MOST_UNREADABLE = 0.01  # largest share of a split's images that may be unreadable
_FEWEST_TRIED = 100  # images that are decoded before their share of unreadable ones is tested
_DEVIATIONS = 5  # standard deviations of the count of unreadable images in that test
_NAMED = 10  # unreadable files whose names are printed
_SUBSTITUTE_SEED = 1  # combined with the numbers of a row
_TRIES = 100  # substitutes that are tried for a row


@dataclass(frozen=True)
class DecodedRow:
    """A decoded row of images.

    Attributes:
        pixels: uint8 (T, C, H, W); if a `Decoding` returned them, its next row overwrites them.
        failures: error sentences, which name the file, by the numbers of unreadable images.
    """

    pixels: Tensor
    failures: dict[int, str]


class Decoder(Dataset[DecodedRow]):
    """Decodes rows of images by their numbers. The result depends on the row alone, not on the process.

    Args:
        folder: of the files.
        names: of the files, relative to the folder.
        image_shape: (C, H, W), with C = 1 for grey or 3 for RGB.
        static: binarize each image statically, by its number (`binarize_alone`).
        substituted: replace unreadable images by other images; if False, they are black.
        classes: class of every image, (N,): substitutes are of the row's classes; of any class if None.
        dark_on_light: invert the images.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        image_shape: tuple[int, int, int],
        static: bool,
        substituted: bool = False,
        classes: np.ndarray | None = None,
        dark_on_light: bool = False,
    ) -> None:
        self.folder, self.names, self.image_shape = folder, names, image_shape
        self.static, self.substituted, self.classes = static, substituted, classes
        self.dark_on_light = dark_on_light

    def __getitem__(self, numbers: list[int]) -> DecodedRow:
        """Decode the images of a row of T numbers."""
        failures = dict[int, str]()
        pixels = torch.zeros(len(numbers), *self.image_shape, dtype=torch.uint8)
        missing = [place for place, number in enumerate(numbers) if not self._read(number, pixels[place], failures)]
        if self.substituted and missing:
            self._substitute(numbers, missing, pixels, failures)
        return DecodedRow(pixels, failures)

    def _substitute(self, numbers: list[int], missing: list[int], pixels: Tensor, failures: dict[int, str]) -> None:
        """Fill the missing places of a row with substitutes, or else with copies of the row's readable images."""
        candidates = islice(self._candidates(numbers), _TRIES)
        readable = [place for place in range(len(numbers)) if place not in missing]
        for index, place in enumerate(missing):
            if not any(self._read(number, pixels[place], failures) for number in candidates) and readable:
                pixels[place] = pixels[readable[index % len(readable)]]

    def _read(self, number: int, pixels: Tensor, failures: dict[int, str]) -> bool:
        """Decode an image into `pixels` (C, H, W). Returns whether it is readable."""
        try:
            intensities = read_picture(self.folder / self.names[number], self.image_shape, self.dark_on_light)
        except InputError as error:
            failures[number] = str(error)
            return False
        image = (intensities * 255).round().to(torch.uint8)
        pixels[:] = binarize_alone(image, number) if self.static else image
        return True

    def _candidates(self, numbers: list[int]) -> Iterator[int]:
        """Numbers of possible substitutes, none of the row, from a pseudo-random start that depends on the row."""
        if self.classes is None:
            among: Sequence[int] = range(len(self.names))
        else:
            among = np.flatnonzero(np.isin(self.classes, self.classes[numbers])).tolist()
        start = int(np.random.default_rng([_SUBSTITUTE_SEED, *numbers]).integers(len(among)))
        own = set(numbers)
        rotated = (among[(start + step) % len(among)] for step in range(len(among)))
        return (number for number in rotated if number not in own)


class _Slots(Dataset[tuple[int, int, dict[int, str]]]):
    """A decoder that writes the pixels of a row to a slot of shared memory, (slots, T, C, H, W).

    A pipe would hold two episodes only: its reader would wait for the worker to be scheduled.
    """

    def __init__(self, decoder: Decoder, shared: Tensor) -> None:
        self.decoder, self.shared = decoder, shared

    def __getitem__(self, request: tuple[int, list[int]]) -> tuple[int, int, dict[int, str]]:
        """Decode a row into a slot. Returns the slot, the length of the row and its failures."""
        slot, numbers = request
        decoded = self.decoder[numbers]
        self.shared[slot, : len(numbers)] = decoded.pixels
        return slot, len(numbers), decoded.failures


class Decoding(Iterator[DecodedRow]):
    """An iterator over decoded rows, in the order of the rows; worker processes prefetch the rows.

    The processes end when the iterator is closed or garbage-collected, or when the program exits.

    Args:
        decoder: decodes the rows.
        rows: image numbers, (T,) each; consumed as far ahead as rows are prefetched.
        longest: T of the longest row.
        workers: number of processes.
        ahead: largest number of prefetched rows of each process.

    Raises:
        InputError: the processes cannot be started.
    """

    def __init__(self, decoder: Decoder, rows: Iterable[Tensor], longest: int, workers: int, ahead: int = 2) -> None:
        self._folder = decoder.folder
        slots = workers * ahead + 1  # + 1 for the row that the caller holds
        before = multiprocessing.active_children()
        try:
            self._shared = _shared_memory(slots, longest, *decoder.image_shape)
            requests = ((index % slots, row.tolist()) for index, row in enumerate(rows))
            self._results: Iterator[Any] | None = _start(_Slots(decoder, self._shared), requests, workers, ahead)
        except (OSError, RuntimeError) as error:
            _abandon(error)
            _kill(_children_since(before))
            raise InputError(f"--workers {workers}: {_describe_failed_start(error)}") from error
        self._processes = _children_since(before)
        atexit.register(_close, weakref.ref(self))  # runs before multiprocessing's own clean-up, which would wait

    def __enter__(self) -> Decoding:
        """Return the iterator."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self.close()

    def __next__(self) -> DecodedRow:
        """Wait for the next row and return it.

        Raises:
            InputError: a worker process was killed.
        """
        if self._results is None:
            raise StopIteration
        try:
            slot, length, failures = next(self._results)
        except RuntimeError as error:
            if not is_lost_worker(error):
                raise
            raise InputError(f"{self._folder}: {describe_lost_worker(error)}") from error
        return DecodedRow(self._shared[slot, :length], failures)

    def __del__(self) -> None:
        """End the processes."""
        self.close()

    def close(self) -> None:
        """End the processes, even if a traceback still refers to them."""
        shut_down = getattr(getattr(self, "_results", None), "_shutdown_workers", None)
        self._results = None
        if shut_down is not None:
            shut_down()  # tells the workers to end, waits five seconds and sends SIGTERM, which they ignore
        _kill(getattr(self, "_processes", ()))
        self._processes = []


def _shared_memory(*shape: int) -> Tensor:
    """A uint8 tensor that the worker processes share.

    Forked processes inherit anonymous memory, which the size of /dev/shm does not limit: in containers it is 64 MB.
    """
    if multiprocessing.get_start_method() == "fork":
        return torch.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=torch.uint8).view(shape)
    return torch.empty(shape, dtype=torch.uint8).share_memory_()


def _start(slots: _Slots, requests: Iterable[tuple[int, list[int]]], workers: int, ahead: int) -> Iterator[Any]:
    """Start the processes, which fill slots as requested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about more processes than cores
        loader = DataLoader(
            slots,
            batch_size=None,
            sampler=requests,  # type: ignore[arg-type]  # an iterable is enough
            num_workers=workers,
            collate_fn=_unchanged,
            prefetch_factor=ahead,
            worker_init_fn=_initialise_worker,
            generator=torch.Generator(),  # for the workers' seeds: the global random state stays unchanged
        )
        return iter(loader)


def _abandon(error: Exception) -> None:
    """Keep torch's half-made iterator, which the error's frames hold, from failing once more when it is deleted."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        half_made = frame.f_locals.get("self")
        if half_made is not None and hasattr(half_made, "_shutdown_workers"):
            half_made._shutdown = True


def _children_since(before: Sequence[BaseProcess]) -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child not in before]


def _kill(processes: Iterable[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()


def _describe_failed_start(error: Exception) -> str:
    """The message for worker processes that cannot be started, with advice."""
    return (
        f"expected to start as many processes that decode, found that it fails ({reason(error)}); "
        "try fewer --workers, or more shared memory for a container (--shm-size)"
    )


def is_lost_worker(error: RuntimeError) -> bool:
    """Whether torch raised the error because a worker process was killed; it may do so anywhere in the program."""
    return str(error).startswith("DataLoader worker")


def describe_lost_worker(error: RuntimeError) -> str:
    """The message for a killed worker process, with advice."""
    found = str(error).strip().removesuffix(".")
    return f"expected every process that decodes to go on, found that {found}; fewer --workers take less memory"


def _close(reference: weakref.ref[Decoding]) -> None:
    """Close a `Decoding` that still exists."""
    decoding = reference()
    if decoding is not None:
        decoding.close()


def _unchanged(row: Any) -> Any:
    """Collate nothing: a row is a whole batch."""
    return row


def _initialise_worker(_number: int) -> None:
    """Ignore SIGINT and SIGTERM, which terminals and job managers send to all processes; the parent handles them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # PIL's, about unusual pictures that it decodes


class Unreadable:
    """The unreadable images of a split: prints their names, counts them, and raises an error if there are too many.

    The limit is 1 % of the split. After n >= 100 tries the limit is also 0.01 n + 5 sqrt(0.01 n), the mean and five
    standard deviations of the count at a share of 1 %: 6 of 100, 25 of 1,000, 150 of 10,000.

    Args:
        folder: of the split.
        num_images: number of images of the split.

    Attributes:
        reasons: error sentences, which name the file, by the numbers of unreadable images.
    """

    def __init__(self, folder: Path, num_images: int) -> None:
        self.folder = folder
        self.reasons: dict[int, str] = {}
        self._tried = torch.zeros(num_images, dtype=torch.bool)

    def __len__(self) -> int:
        """Number of unreadable images."""
        return len(self.reasons)

    def note(self, tried: Tensor, failures: Mapping[int, str]) -> None:
        """Record which images were tried, and which of them are unreadable.

        Args:
            tried: image numbers.
            failures: error sentences by the numbers of unreadable images.

        Raises:
            InputError: too many images are unreadable.
        """
        self._tried[tried] = True
        new = {number: sentence for number, sentence in failures.items() if number not in self.reasons}
        for number, sentence in new.items():
            self.reasons[number] = sentence
            self._tried[number] = True
            self._print_name(sentence)
        if new:
            self._require_few()

    def summarize(self) -> None:
        """Print the number of unreadable images, if there are any."""
        if self.reasons:
            print_above_bars(
                f"{self.folder}: {len(self)} of {len(self._tried)} pictures cannot be read and are left out"
            )

    def _print_name(self, sentence: str) -> None:
        if len(self) <= _NAMED:
            print_above_bars(f"skipped unreadable picture {len(self)}: {sentence}")
        if len(self) == _NAMED:
            print_above_bars(f"{self.folder}: further unreadable pictures are counted, but not named")

    def _require_few(self) -> None:
        tried = int(self._tried.sum())
        most_by_chance = MOST_UNREADABLE * tried + _DEVIATIONS * (MOST_UNREADABLE * tried) ** 0.5
        too_many_of_tried = tried >= _FEWEST_TRIED and len(self) > most_by_chance
        if too_many_of_tried or len(self) > max(1, MOST_UNREADABLE * len(self._tried)):
            raise InputError(
                f"{self.folder}: expected at most {MOST_UNREADABLE:.0%} of the pictures to be unreadable, found "
                f"{len(self)} among {tried} of {len(self._tried)} tried, such as {next(iter(self.reasons.values()))}"
            )
