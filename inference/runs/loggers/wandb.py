"""Weights & Biases: the service, or files in the run folder with `WANDB_MODE=offline`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.runs.loggers.interface import LOGGERS, Logger, LoggerKind, read_id, recording
from kpp_pyro.files.run_folder import RunFolder, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROJECT = "kpp-pyro"  # unless WANDB_PROJECT names another


class WandbLogger(Logger):
    """Records to a run of wandb. Arguments are those of `LoggerKind.open`.

    Wandb's own count of steps cannot go back, as the step of the test scores does. So "step" is a quantity, over which
    the others are drawn, and the count is the largest step so far, plus one where a step goes back.
    """

    def __init__(self, folder: RunFolder, next_step: int) -> None:
        import wandb  # not at the top: it is optional

        self._wandb, self._count, id_file = wandb, next_step - 1, folder.wandb / "run_id.txt"
        run_id = read_id(id_file)
        with recording("wandb", wandb.Error):
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                name=folder.path.name,
                dir=folder.path,  # wandb adds wandb/
                id=run_id,
                resume="allow" if run_id else None,
                settings=wandb.Settings(console="off", disable_git=True),  # the output and its streams are ours
            )
            self._run.define_metric("*", step_metric="step")
        if run_id is None:
            write_text(id_file, self._run.id)

    def add_config(self, fields: Mapping[str, Any]) -> None:
        """Record the configuration as that of the run."""
        with recording("wandb", self._wandb.Error):
            self._run.config.update(dict(fields), allow_val_change=True)

    def add_scalars(self, split: str, quantities: Mapping[str, float], step: int) -> None:
        """Record quantities by name."""
        self._log({f"{split}/{name}": value for name, value in quantities.items()}, step)

    def add_figures(self, figures: Mapping[str, Figure], step: int) -> None:
        """Record figures by name."""
        self._log({f"figures/{name}": self._wandb.Image(_pixels(figure)) for name, figure in figures.items()}, step)

    def _log(self, values: dict[str, Any], step: int) -> None:
        self._count = step if step >= self._count else self._count + 1
        with recording("wandb", self._wandb.Error):
            self._run.log({"step": step, **values}, step=self._count)

    def close(self) -> None:
        """Write or send what is still in memory."""
        with recording("wandb", self._wandb.Error):
            self._run.finish()


def _pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 (H, W, 4); wandb itself would need pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())


LOGGERS["wandb"] = LoggerKind(WandbLogger, package="wandb")
