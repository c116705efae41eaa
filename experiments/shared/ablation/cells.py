"""The cells of a grid: their names, their commands, and the work left."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from experiments.shared.ablation.grid import MOST_CELLS, Flags, Grid
from experiments.shared.command_line import starting
from inference.runs.build_trainer import kl_schedules
from inference.runs.config import Config
from inference.runs.config_parts import DataConfig
from inference.runs.data import load_splits
from inference.runs.resolve import is_open, resolve
from kpp_pyro.data import DATASETS
from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import whole_path
from kpp_pyro.files.run_folder import RunFolder

State = Literal["to train", "to resume", "to score", "finished"]

_SCRIPTS = Path(__file__).parents[2]
_FREE = ("data_dir", "workers", "capture", "logger")  # fields that change no result


@dataclass(frozen=True)
class Cell:
    """A combination of a grid's values, with one seed.

    Attributes:
        labels: label of the value on each axis, by the name of the axis.
        seed: seed of the run.
        flags: flags of `svi_train.py`.
        score: flags of `evaluate.py`.
        folder: run folder.
        plugins: those that every command is given.
    """

    labels: dict[str, str]
    seed: int
    flags: Flags
    score: dict[str, int]
    folder: Path
    plugins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the cell and of its folder."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """File with the output of the cell's commands."""
        return self.folder.with_name(f"{self.name}.log")

    def train_command(self) -> list[str]:
        """Command that trains the cell."""
        return ["svi_train.py", *command_line(self.flags), "--out", str(self.folder)]

    def resume_command(self) -> list[str]:
        """Command that resumes training."""
        data_dir: Flags = {"data_dir": self.flags["data_dir"]} if "data_dir" in self.flags else {}
        return ["svi_train.py", "--resume", str(self.folder), *command_line(data_dir)]

    def score_command(self) -> list[str]:
        """Command that scores the run."""
        score = {name: str(value) for name, value in self.score.items()}
        machine: Flags = {name: self.flags[name] for name in ("device", "data_dir") if name in self.flags}
        return ["evaluate.py", str(self.folder), *command_line({**score, "posterior_images": "0", **machine})]

    def commands(self, state: State) -> list[list[str]]:
        """Commands left to run from a state, in order."""
        train = {"to train": [self.train_command()], "to resume": [self.resume_command()]}.get(state, [])
        plugins = [text for plugin in self.plugins for text in ("--plugin", plugin)]
        return [] if state == "finished" else [[*command, *plugins] for command in (*train, self.score_command())]


def make_cells(grid: Grid, out: Path, plugins: tuple[str, ...] = ()) -> list[Cell]:
    """Every cell of a grid; the seeds of a combination are consecutive.

    Raises:
        InputError: too many cells, or two that would have the same folder.
    """
    count = math.prod(map(len, grid.axes.values())) * len(grid.seeds)
    if count > MOST_CELLS:
        raise InputError(f"vary: expected at most {MOST_CELLS} cells, found {count}")
    cells = []
    for labels in grid.combinations():
        for seed in grid.seeds:
            folder = out / "cells" / _file_name({**labels, "seed": str(seed)})
            cells.append(Cell(labels, seed, grid.flags(labels, seed), grid.score, folder, plugins))
    names = [cell.name for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"vary: expected labels that differ in letters or digits, found {twice} twice")
    return cells


def command_line(flags: Flags) -> list[str]:
    """Flags as command-line arguments; true and false become --flag and --no-flag."""
    return [argument for name, value in flags.items() for argument in _arguments(name.replace("_", "-"), value)]


def shown(command: list[str]) -> str:
    """A command as text, for a shell in the folder in which this program was started."""
    return shlex.join([*starting(command[0]), *command[1:]])


def runnable(command: list[str]) -> list[str]:
    """A command for this interpreter, from any folder."""
    return [sys.executable, str(_SCRIPTS / command[0]), *command[1:]]


def read_flags(flags: Flags) -> Config:
    """The configuration that `svi_train.py` makes of flags.

    Raises:
        InputError: invalid flags.
    """
    config = Config.preset(**{name: None if value == "None" else value for name, value in flags.items()})
    resolve(config)
    return config


def require_no_twins(configured: Sequence[tuple[Cell, Config]]) -> None:
    """Raise InputError for two cells with equal configurations, such as 1e-3 and 0.001.

    Args:
        configured: cells, each with its configuration.
    """
    seen: dict[tuple[Any, ...], Cell] = {}
    for cell, config in configured:
        other = seen.setdefault(tuple(resolve(config).flat().items()), cell)
        if other is not cell:
            raise InputError(
                f"vary: expected cells that differ, found the same run twice, {other.name} and {cell.name}"
            )


def unfinished_schedules(config: Config) -> list[str]:
    """A sentence on each KL weight that has not reached its last value at the end of training."""
    steps = config.training.steps
    found = {name: (schedule.weight(steps), schedule.end) for name, schedule in kl_schedules(config.training).items()}
    return [
        f"the weight of the KL of {name} is {weight:.2g}, not {end:g}, at the end of {steps} steps"
        for name, (weight, end) in found.items()
        if weight != end
    ]


def state_of(cell: Cell, config: Config) -> State:
    """The work left for a cell with this configuration, according to its run folder.

    Raises:
        InputError: the folder holds a run of another configuration.
    """
    run = RunFolder(cell.folder)
    if not run.config.exists():
        return "to train"
    _require_same(cell, config, run)
    if not any(record["split"] == "test" for record in run.read_metrics()):
        return "to resume"
    return "finished" if run.evaluation.exists() and _is_scored(cell, config, run) else "to score"


def _is_scored(cell: Cell, config: Config, run: RunFolder) -> bool:
    """Whether the folder's evaluation.json has the cell's score settings; one that cannot be read is written again."""
    try:
        settings = run.read_evaluation()["settings"]
    except InputError:
        return False
    required = {
        **{"split": "test", "seed": 0, "content_bits": None, "refine_steps": 0},  # the defaults of evaluate.py
        "content_steps": config.program.content_steps,
        "classes_per_episode": config.data.classes_per_episode,
        **{name: value for name, value in cell.score.items() if name != "limit"},
    }
    if any(settings.get(name) != value for name, value in required.items()):
        return False
    limit, images = cell.score["limit"], settings.get("images", 0)
    return bool(images == limit or (images < limit and images == _test_images(config.data)))


@lru_cache
def _test_images(data: DataConfig) -> int:
    return len(load_splits(data).test)


def _data_dir(config: Config) -> Path:
    return whole_path(config.data.data_dir)


def _require_same(cell: Cell, config: Config, run: RunFolder) -> None:
    """Raise InputError unless a run has the configuration of a cell; "auto" may have been resolved to any value."""
    expected, found = config.flat(), Config.of_run(run.config).flat()
    expected["data_dir"] = _data_dir(config)
    free = [name for name in _FREE if not DATASETS[config.data.dataset].own or name != "data_dir"]
    for name, value in expected.items():
        if name not in free and not is_open(name, value) and value != found[name]:
            raise InputError(
                f"{cell.folder}: expected a run with {name} {value}, found {found[name]}; "
                "choose another --out, or delete that folder"
            )


def _file_name(parts: dict[str, str]) -> str:
    plain = {re.sub(r"[^\w.+-]+", "_", name): re.sub(r"[^\w.+-]+", "_", value) for name, value in parts.items()}
    return ",".join(f"{name}={value}" for name, value in plain.items())


def _arguments(flag: str, value: str) -> list[str]:
    truths = {"true": [f"--{flag}"], "false": [f"--no-{flag}"]}
    return truths.get(value, [f"--{flag}", value])
