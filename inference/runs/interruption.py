"""Ctrl-C and SIGTERM as requests to stop, which a run checks between steps."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Any

from inference.processes import SINGLE_PROCESS, Processes


class Interruption:
    """Turns the first Ctrl-C or SIGTERM inside its `with` block into a request, `signal`.

    A second one has the usual effect and ends a single process at once. With several processes it is ignored, since
    each gets Ctrl-C twice, from the terminal and from `torchrun`; `torchrun` kills them after half a minute.

    Args:
        processes: those that are interrupted together.

    Attributes:
        signal: number of the first signal, or 0.
    """

    def __init__(self, processes: Processes = SINGLE_PROCESS) -> None:
        self.processes = processes
        self.signal: int = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        """Install the handlers."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        self._restore()

    def agreed_signal(self) -> int:
        """The signal of any process, or 0; every process has to call this."""
        return max(self.processes.gather(self.signal))

    def _note(self, number: int, _frame: FrameType | None) -> None:
        is_first_signal, self.signal = not self.signal, self.signal or number
        if self.processes.count == 1:
            self._restore()
            _write_stderr(b"\nstopping after this step; once more to stop at once\n")
        elif is_first_signal and self.processes.is_first:
            _write_stderr(b"\nstopping after a few steps\n")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def _write_stderr(text: bytes) -> None:
    """Write to stderr from a signal handler, where print is not safe."""
    with contextlib.suppress(OSError):
        os.write(2, text)


def exit_status(signal_number: int) -> int:
    """128 + the number of the signal, the convention of shells: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + signal_number
