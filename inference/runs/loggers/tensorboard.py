"""TensorBoard: event files in the run folder, `tensorboard --logdir runs`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from inference.runs.loggers.interface import LOGGERS, Logger, LoggerKind
from kpp_pyro.files.atomic import writing
from kpp_pyro.files.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TensorBoardLogger(Logger):
    """Writes event files. Arguments are those of `LoggerKind.open`."""

    def __init__(self, folder: RunFolder, next_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # not at the top: it takes a second

        self._folder, self._next_step = folder.tensorboard, next_step
        with writing(self._folder):
            self._writer = SummaryWriter(str(self._folder), purge_step=next_step)
        self._print_error = threading.excepthook
        threading.excepthook = self._print_unless_raised_again

    def _print_unless_raised_again(self, error: Any) -> None:
        """Leave out an OSError of the writer's thread: its next call raises it again."""
        if not isinstance(error.exc_value, OSError):
            self._print_error(error)

    def add_config(self, fields: Mapping[str, Any]) -> None:
        """Record the configuration as text, in YAML that `--config` reads."""
        text = yaml.safe_dump(dict(fields), sort_keys=False)
        with writing(self._folder):
            self._writer.add_text("configuration", f"```\n{text}```", self._next_step - 1)

    def add_scalars(self, split: str, quantities: Mapping[str, float], step: int) -> None:
        """Record quantities by name."""
        with writing(self._folder):
            for name, value in quantities.items():
                self._writer.add_scalar(f"{split}/{name}", value, step)

    def add_figures(self, figures: Mapping[str, Figure], step: int) -> None:
        """Record figures by name."""
        with writing(self._folder):
            for name, figure in figures.items():
                self._writer.add_figure(name, figure, step)

    def close(self) -> None:
        """Write what is still in memory."""
        threading.excepthook = self._print_error
        with writing(self._folder):
            self._writer.close()


LOGGERS["tensorboard"] = LoggerKind(TensorBoardLogger)
