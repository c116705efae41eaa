"""TensorBoard's copy of a run's metrics and figures."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from kpp_pyro.files.atomic import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Board:
    """Writes event files for TensorBoard.

    Args:
        folder: of the event files.
        next_step: step from which earlier records, of an interrupted run, are not shown.
    """

    def __init__(self, folder: Path, next_step: int) -> None:
        self.folder = folder
        with writing(self.folder):
            self._writer = SummaryWriter(str(folder), purge_step=next_step)

    def add_scalars(self, split: str, quantities: Mapping[str, float], step: int) -> None:
        """Record quantities by name.

        Raises:
            OutputError: the files cannot be written.
        """
        with writing(self.folder):
            for name, value in quantities.items():
                self._writer.add_scalar(f"{split}/{name}", value, step)

    def add_figures(self, figures: Mapping[str, Figure], step: int) -> None:
        """Record figures by name.

        Raises:
            OutputError: the files cannot be written.
        """
        with writing(self.folder):
            for name, figure in figures.items():
                self._writer.add_figure(name, figure, step)

    def close(self) -> None:
        """Write what is still in memory.

        Raises:
            OutputError: the files cannot be written.
        """
        with writing(self.folder):
            self._writer.close()


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Inside this context, a thread's `OSError` is not printed: the next call of `Board` raises it again."""
    print_error = threading.excepthook
    threading.excepthook = lambda error: None if isinstance(error.exc_value, OSError) else print_error(error)
    try:
        yield
    finally:
        threading.excepthook = print_error
