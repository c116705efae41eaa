"""Progress of long loops: tqdm's bar in a terminal, and elsewhere, as in the log of a batch job, a line now and then.

Nothing else uses tqdm.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

_LINE_SECONDS = 30.0  # from line to line
_SMOOTHING = 0.02  # weight of the latest rate: the time left is that of the last 50 redrawings, not of the last three


def show_progress(items: Iterable[Any] | None = None, label: str = "", **options: Any) -> Progress:
    """Show the progress of a loop on stderr: a bar in a terminal, elsewhere a line every 30 seconds and a last one.

    A loop with `leave=False` that ends before its first line prints none.

    Args:
        items: what to iterate over; None: the caller calls `update`.
        label: name of the loop.
        options: of `Progress`, and of `tqdm`: `total`, `initial`, `unit`, `leave`, `disable`, `delay` in seconds.

    Returns:
        The items, to iterate over, and a context manager.
    """
    in_terminal = getattr(sys.stderr, "isatty", lambda: False)()
    kind = Progress if in_terminal else _Lines
    return kind(items, label, **options)


def print_above_bars(line: str) -> None:
    """Print a line to stderr, above a progress bar if there is one."""
    tqdm.write(" ".join(line.splitlines()), file=sys.stderr)


class Progress(tqdm):
    """A bar whose time left is that of the steps and of the pauses that are still to come.

    Steps and pauses are timed separately, so that the expected end does not move with each pause. Until the first
    pause, pauses count as nothing.

    Args:
        items: see `show_progress`.
        label: see `show_progress`.
        pause_every: steps from one call of `pause` to the next; the last step has one too. None: there are no pauses.
        options: of tqdm.
    """

    def __init__(
        self, items: Iterable[Any] | None, label: str, *, pause_every: int | None = None, **options: Any
    ) -> None:
        self._pause_every = pause_every
        self._pauses, self._paused_seconds = 0, 0.0
        super().__init__(items, label, **{"dynamic_ncols": True, "smoothing": _SMOOTHING, **options})

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time what runs inside as a pause."""
        if self.disable:
            yield
            return
        began = self._time()
        yield
        seconds = self._time() - began
        self._pauses, self._paused_seconds = self._pauses + 1, self._paused_seconds + seconds
        self.last_print_t += seconds  # tqdm's rate of steps leaves the pause out

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm shows. It takes the time left from the rate, which here has to include the pauses."""
        shown: dict[str, Any] = super().format_dict
        left = (self.total or 0) - self.n
        if self._pause_every and self._pauses and shown["rate"] and left > 0:
            pauses_left = -(-self.total // self._pause_every) - self.initial // self._pause_every - self._pauses
            seconds_left = left / shown["rate"] + pauses_left * self._paused_seconds / self._pauses
            shown["rate"] = left / seconds_left
        return shown


class _Lines(Progress):
    """Lines in place of a bar, see `show_progress`; nothing is drawn over."""

    def __init__(self, items: Iterable[Any] | None, label: str, **options: Any) -> None:
        self._shown_n: int | None = None  # the count on the last line
        self._shown_paused_seconds = 0.0  # the pauses before it
        by_time = {"mininterval": _LINE_SECONDS, "miniters": 1}  # not by a guess at the rate
        super().__init__(items, label, **{**options, **by_time, "ncols": 0, "dynamic_ncols": False})

    @staticmethod
    def status_printer(file: Any) -> None:
        """Return no printer that begins lines anew."""

    def refresh(self, *_: Any, **__: Any) -> None:
        """Do nothing: a line stays."""

    def clear(self, *_: Any, **__: Any) -> None:
        """Do nothing: a line stays."""

    def update(self, n: float | None = 1) -> bool | None:
        """Count, and print a line if it is time."""
        self.mininterval = _LINE_SECONDS - (self._paused_seconds - self._shown_paused_seconds)  # tqdm leaves pauses out
        is_due: bool | None = super().update(n)
        if is_due:
            self._shown_paused_seconds = self._paused_seconds
            self._print()
        return is_due

    def close(self) -> None:
        """Print the last line, unless it has been printed."""
        is_kept = self.leave or self._shown_n is not None
        if not self.disable and is_kept and self._shown_n != self.n:
            self._ema_dt = lambda: None  # as in tqdm: the last rate is that of the whole loop
            self._print()
        super().close()

    def _print(self) -> None:
        self._shown_n = self.n
        self.fp.write(f"{self}\n")
