"""Ctrl-C and SIGTERM, as requests that a run grants when it is ready."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Any

from inference.processes import SINGLE_PROCESS, Processes


class Interruption:
    """Turns the first Ctrl-C or SIGTERM into a request that the program grants when it is ready.

    A second one ends the program at once, but not one of several processes: Ctrl-C reaches these from the terminal and
    from `torchrun`, which ends them after half a minute in any case. Outside the `with` block the usual handlers are
    back.
    """

    def __init__(self, processes: Processes = SINGLE_PROCESS) -> None:
        self.processes = processes
        self.signal: int = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        """Begin to listen."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the handlers back."""
        self._restore()

    def agreed_signal(self) -> int:
        """The signal that any process has got, or 0; every process has to ask."""
        return max(self.processes.gather(self.signal))

    def _note(self, number: int, _frame: FrameType | None) -> None:
        first_one, self.signal = not self.signal, self.signal or number
        if self.processes.count == 1:
            self._restore()
            _say(b"\nstopping after this step; once more to stop at once\n")
        elif first_one and self.processes.is_first:
            _say(b"\nstopping after a few steps\n")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def _say(text: bytes) -> None:
    """Write to stderr from a signal handler, where print is not safe."""
    with contextlib.suppress(OSError):
        os.write(2, text)


def exit_status(signal_number: int) -> int:
    """128 + the signal's number, as shells expect: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + signal_number
