"""What has been decoded once, kept in a temporary file for the next time: a hundred times faster than decoding."""

from __future__ import annotations

import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

_WHOLE = b"\1"


class DecodedFile:
    """A file of one record an image, its bytes and then a mark that they are all there, for any number of processes.

    It takes N H W bytes of the temporary folder (`TMPDIR`) when all images have been seen, and none of the memory that
    something else wants. Where the disk is full, or the system cannot read at a place of a file, nothing is kept.

    Args:
        image_bytes: H x W.
    """

    def __init__(self, image_bytes: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kpp-pyro-decoded-")  # removed with the last reference to it
        self._path = Path(self._folder.name) / "images"
        self._path.touch()
        self._image_bytes = image_bytes
        self._file: tuple[int, int] | None = None  # process and descriptor

    def __getstate__(self) -> dict[str, object]:
        """Another process opens the file anew, and does not remove it."""
        return {**vars(self), "_folder": None, "_file": None}

    def read(self, number: int, pixels: Tensor) -> bool:
        """Copy an image into `pixels`, uint8 of H x W; whether it was there."""
        if not hasattr(os, "pread"):
            return False
        record = os.pread(self._descriptor(), self._image_bytes + 1, number * (self._image_bytes + 1))
        if record[-1:] != _WHOLE or len(record) <= self._image_bytes:
            return False
        pixels.view(-1)[:] = torch.frombuffer(bytearray(record[:-1]), dtype=torch.uint8)
        return True

    def keep(self, number: int, pixels: Tensor) -> None:
        """Keep an image, uint8 of H x W, for the next time."""
        if not hasattr(os, "pwrite"):
            return
        start = number * (self._image_bytes + 1)
        with suppress(OSError):  # the disk is full: the image is decoded again
            if os.pwrite(self._descriptor(), pixels.numpy().tobytes(), start) == self._image_bytes:
                os.pwrite(self._descriptor(), _WHOLE, start + self._image_bytes)  # last, so that no half is ever read

    def _descriptor(self) -> int:
        if self._file is None or self._file[0] != os.getpid():
            self._file = os.getpid(), os.open(self._path, os.O_RDWR)
            weakref.finalize(self, os.close, self._file[1])
        return self._file[1]
