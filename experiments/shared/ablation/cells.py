"""The cells of a grid: how each is called, which commands make it, and how far it has come."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from experiments.shared.ablation.grid import Flags, Grid
from inference.runs.build_trainer import kl_schedules
from inference.runs.config import Config
from inference.runs.resolve import resolve
from kpp_pyro.data import DATASETS, find_pictures, load_dataset
from kpp_pyro.errors import InputError
from kpp_pyro.files.run_folder import RunFolder

State = Literal["to train", "to resume", "to score", "finished"]

_SCRIPTS = Path(__file__).parents[2]
_FREE = ("data_dir", "workers", "capture")  # flags that change where and how fast, but no result


@dataclass(frozen=True)
class Cell:
    """A combination of a grid with one seed.

    Attributes:
        labels: of the value on every axis, by the axis.
        seed: of its run.
        flags: of `svi_train.py`.
        score: flags of `evaluate.py`.
        folder: its run folder.
    """

    labels: dict[str, str]
    seed: int
    flags: Flags
    score: dict[str, int]
    folder: Path

    @property
    def name(self) -> str:
        """What it is called in lists, and its folder."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """File with what its commands print."""
        return self.folder.with_name(f"{self.name}.log")

    def train_command(self) -> list[str]:
        """Command that trains it."""
        return ["svi_train.py", *command_line(self.flags), "--out", str(self.folder)]

    def resume_command(self) -> list[str]:
        """Command that goes on with its training."""
        data_dir: Flags = {"data_dir": self.flags["data_dir"]} if "data_dir" in self.flags else {}
        return ["svi_train.py", "--resume", str(self.folder), *command_line(data_dir)]

    def score_command(self) -> list[str]:
        """Command that scores it."""
        score = {name: str(value) for name, value in self.score.items()}
        here: Flags = {name: self.flags[name] for name in ("device", "data_dir") if name in self.flags}
        return ["evaluate.py", str(self.folder), *command_line({**score, "posterior_images": "0", **here})]

    def commands(self, state: State) -> list[list[str]]:
        """What is left to run, in order."""
        train = {"to train": [self.train_command()], "to resume": [self.resume_command()]}.get(state, [])
        return [] if state == "finished" else [*train, self.score_command()]


def make_cells(grid: Grid, out: Path) -> list[Cell]:
    """Every cell of a grid, those of a combination beside each other.

    Raises:
        InputError: two cells would have the same folder.
    """
    cells = []
    for labels in grid.combinations():
        for seed in grid.seeds:
            folder = out / "cells" / _file_name({**labels, "seed": str(seed)})
            cells.append(Cell(labels, seed, grid.flags(labels, seed), grid.score, folder))
    names = [cell.name for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"vary: expected labels that differ in letters or digits, found {twice} twice")
    return cells


def command_line(flags: Flags) -> list[str]:
    """Flags as arguments; those that are true or false stand alone."""
    return [argument for name, value in flags.items() for argument in _arguments(name.replace("_", "-"), value)]


def shown(command: list[str]) -> str:
    """A command, to be pasted into a shell in the root of the repository."""
    return shlex.join(["python", f"experiments/{command[0]}", *command[1:]])


def runnable(command: list[str]) -> list[str]:
    """A command, to be run from any folder by this interpreter."""
    return [sys.executable, str(_SCRIPTS / command[0]), *command[1:]]


def read_flags(flags: Flags) -> Config:
    """The configuration that flags stand for: the presets, and the flags.

    Raises:
        InputError: `svi_train.py` would refuse them.
    """
    config = Config.preset(**{name: None if value == "None" else value for name, value in flags.items()})
    resolve(config)
    return config


def require_no_twins(configured: Sequence[tuple[Cell, Config]]) -> None:
    """Raise InputError for two cells that would be the same run, as with 1e-3 and 0.001.

    Args:
        configured: cells, each with the configuration that its flags stand for.
    """
    seen: dict[tuple[Any, ...], Cell] = {}
    for cell, config in configured:
        other = seen.setdefault(tuple(resolve(config).flat().items()), cell)
        if other is not cell:
            raise InputError(
                f"vary: expected cells that differ, found the same run twice, {other.name} and {cell.name}"
            )


def unfinished_schedules(config: Config) -> list[str]:
    """Sentences on the KLs whose weight is not 1 at the end of training."""
    steps = config.training.steps
    weights = {name: schedule.weight(steps) for name, schedule in kl_schedules(config.training).items()}
    return [
        f"the weight of the KL of {name} is {weight:.2g}, not 1, at the end of {steps} steps"
        for name, weight in weights.items()
        if weight != 1
    ]


def state_of(cell: Cell, config: Config) -> State:
    """How far a cell with this configuration has come, by what its run folder holds.

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
    """Whether the scores in the folder are what the cell asks for."""
    settings = run.read_evaluation().get("settings", {})
    asked = {"split": "test", **{name: value for name, value in cell.score.items() if name != "limit"}}
    if any(settings.get(name) != value for name, value in asked.items()):
        return False
    limit, images = cell.score["limit"], settings.get("images", 0)
    return bool(images == limit or (images < limit and images == _test_images(config.data.dataset, _data_dir(config))))


@lru_cache
def _test_images(dataset: str, data_dir: Path) -> int:
    return len(load_dataset(dataset, data_dir).test if DATASETS[dataset].load else find_pictures(data_dir).test)


def _data_dir(config: Config) -> Path:
    return config.data.data_dir.expanduser().resolve()


def _require_same(cell: Cell, config: Config, run: RunFolder) -> None:
    """Raise InputError unless a run has the configuration of a cell.

    What the machine decides, and a field that an older version did not know, is let pass unless the cell sets it.
    """
    expected, found = _leaves_of(config.to_json()), _leaves_of(run.read_config())
    free = [name for name in _FREE if DATASETS[config.data.dataset].load or name != "data_dir"]
    for name, value in expected.items():
        if name in free or value == "auto" or (name not in found and name not in cell.flags):
            continue
        wanted = str(_data_dir(config)) if name == "data_dir" else value
        if name not in found or found[name] != wanted:
            raise InputError(
                f"{cell.folder}: expected a run with {name} {wanted}, found {found.get(name, 'none')}; "
                "choose another --out, or delete that folder"
            )


def _leaves_of(content: dict[str, Any]) -> dict[str, Any]:
    """Every field of a configuration by its name, as JSON has it."""
    return dict(_leaves(content))


def _leaves(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield name, value


def _file_name(parts: dict[str, str]) -> str:
    plain = {re.sub(r"[^\w.+-]+", "_", name): re.sub(r"[^\w.+-]+", "_", value) for name, value in parts.items()}
    return ",".join(f"{name}={value}" for name, value in plain.items())


def _arguments(flag: str, value: str) -> list[str]:
    truths = {"true": [f"--{flag}"], "false": [f"--no-{flag}"]}
    return truths.get(value, [f"--{flag}", value])
