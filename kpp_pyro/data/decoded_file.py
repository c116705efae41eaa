"""What has been decoded once, kept in a temporary file for the next time: a hundred times faster than decoding."""

from __future__ import annotations

import os
import tempfile
import weakref
from contextlib import suppress
from multiprocessing import reduction

import torch
from torch import Tensor

_WHOLE = b"\1"
_AT_A_PLACE = hasattr(os, "pread") and hasattr(os, "pwrite")  # not on Windows


class DecodedFile:
    """A file of one record an image, its bytes and then a mark that they are all there, for any number of processes.

    It takes N H W bytes of the temporary folder when all images have been seen: `TMPDIR` has to have room for them, and
    where it is in memory (tmpfs) they take memory. Where it is full, or the system cannot read at a place of a file,
    nothing is kept.

    The file has no name: it goes when the last process that has it ends, even by SIGKILL.

    Args:
        image_bytes: H x W.
    """

    def __init__(self, image_bytes: int) -> None:
        self._image_bytes = image_bytes
        if _AT_A_PLACE:
            descriptor, name = tempfile.mkstemp(prefix="kpp-pyro-decoded-")
            os.unlink(name)
            self._hold(descriptor)

    def _hold(self, descriptor: int) -> None:
        self._descriptor = descriptor  # forked processes have it too
        weakref.finalize(self, os.close, descriptor)

    def __getstate__(self) -> tuple[int, object]:
        """What a process that is started anew gets instead: the file, under a number of its own."""
        return self._image_bytes, reduction.DupFd(self._descriptor) if _AT_A_PLACE else None

    def __setstate__(self, state: tuple[int, object]) -> None:
        """Take over the file in another process."""
        self._image_bytes, duplicate = state
        if duplicate is not None:
            self._hold(duplicate.detach())  # type: ignore[attr-defined]

    def read(self, number: int, pixels: Tensor) -> bool:
        """Copy an image into `pixels`, uint8 of H x W; whether it was there."""
        if not _AT_A_PLACE:
            return False
        record = os.pread(self._descriptor, self._image_bytes + 1, number * (self._image_bytes + 1))
        if record[-1:] != _WHOLE or len(record) <= self._image_bytes:
            return False
        pixels.view(-1)[:] = torch.frombuffer(bytearray(record[:-1]), dtype=torch.uint8)
        return True

    def keep(self, number: int, pixels: Tensor) -> None:
        """Keep an image, uint8 of H x W, for the next time."""
        if not _AT_A_PLACE:
            return
        start = number * (self._image_bytes + 1)
        with suppress(OSError):  # the disk is full: the image is decoded again
            if os.pwrite(self._descriptor, pixels.numpy().tobytes(), start) == self._image_bytes:
                os.pwrite(self._descriptor, _WHOLE, start + self._image_bytes)  # last, so that no half is ever read
