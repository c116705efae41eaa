"""What every script does alike: how it ends on bad input, divergence and signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from inference.errors import DivergenceError
from kpp_pyro.errors import InputError


class Interruption:
    """Turns the first Ctrl-C or SIGTERM into a request that the program grants when it is ready.

    A second one ends the program at once. Outside the `with` block the usual handlers are back.
    """

    def __init__(self) -> None:
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

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as shells expect: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        os.write(2, b"\nstopping after this step; once more to stop at once\n")  # print is not safe in a handler

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def run_script(main: Callable[[], int]) -> int:
    """Run a script's main and turn the errors that a user can act on into one sentence and an exit status."""
    try:
        return main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DivergenceError as error:
        print(f"error: {error}; checkpoint.pt is the last good one", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has seen enough, as in `... --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
