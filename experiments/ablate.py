"""Train and score every cell of a grid, and compare the cells in one table.

python experiments/ablate.py experiments/configs/memories.yaml
python experiments/ablate.py experiments/configs/memories.yaml --set dataset=mnist --set preset=small --out runs/mnist
python experiments/ablate.py --vary write=allocate,allocate_by_content --vary memory_width=10,40 --seeds 3 --dry-run

Run it again to continue, or to write the table again: finished cells are not repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field
from tqdm import tqdm

from experiments.shared.ablation.cells import (
    Cell,
    State,
    make_cells,
    read_flags,
    require_no_twins,
    runnable,
    shown,
    state_of,
    unfinished_schedules,
)
from experiments.shared.ablation.grid import MOST_CELLS, Grid, is_numeric, read_grid
from experiments.shared.ablation.results import COST, COST_WITH_MEMORY, Measured, read_measured, summarize_rows
from experiments.shared.ablation.running import Task, run_tasks
from experiments.shared.ablation.table import as_csv, describe_ablation
from experiments.shared.command_line import parse
from experiments.shared.script import run_script
from inference.ranges import Limit, Particles
from inference.runs.config import Config
from inference.runs.interruption import exit_status
from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import make_folder, writing
from kpp_pyro.files.claim import claimed
from kpp_pyro.files.run_folder import environment, write_json, write_text
from kpp_pyro.plots import plot_ablation
from kpp_pyro.schema import Count


@dataclass(frozen=True)
class Arguments:
    """Train and score every cell of a grid, and compare the cells in one table.

    A cell is a combination of the grid's values with one seed: a run, trained by svi_train.py and scored by
    evaluate.py. Finished cells are not run again. If a cell fails, the table states its error, and the others
    continue. The table and the figure are in OUT, the runs and their logs in OUT/cells.
    """

    grid: Annotated[Path | None, tyro.conf.Positional] = None
    """Grid to run: a YAML file such as those in experiments/configs. None: the axes of --vary."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """AXIS=VALUE,VALUE,...: vary this flag of svi_train.py, in addition to the grid's axes."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE: give this flag of svi_train.py to every cell."""
    seeds: Annotated[int, Field(ge=1, le=MOST_CELLS)] | None = None
    """Number of seeds: train each combination with the seeds 0 to N - 1. None: the grid's seeds."""
    steps: Count | None = None
    """Optimiser steps of every cell, the same as --set steps=N."""
    score_particles: Particles | None = None
    """K, draws per image of each score. None: the grid's."""
    score_limit: Limit | None = None
    """Score only the first N test images. None: the grid's."""
    jobs: Annotated[int, Field(ge=1, le=1000)] = 1
    """Cells that run at the same time. Each gets an equal share of the cores, unless OMP_NUM_THREADS is set."""
    out: Path | None = None
    """Folder of the ablation. None: runs/ablations/GRID."""
    data_dir: Path | None = None
    """Folder of the data sets, the same as --set data_dir=DIR."""
    dry_run: bool = False
    """Print the cells and the commands that each still needs, and stop."""


@dataclass
class Planned:
    """A cell with its progress.

    Attributes:
        cell: the cell.
        config: its configuration; None if its flags are invalid.
        state: the work left; None if its flags are invalid.
        failure: error message of a cell that failed or is invalid.
    """

    cell: Cell
    config: Config | None
    state: State | None
    failure: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    grid, out = make_grid(arguments), out_folder(arguments)
    require_folder(out)
    plan = make_plan(make_cells(grid, out))
    if arguments.dry_run:
        print(describe_plan(plan))
        refused = [planned.cell.name for planned in plan if planned.failure]
        if refused:
            print(f"error: {len(refused)} of {len(plan)} cells are refused: {', '.join(refused)}", file=sys.stderr)
        return int(bool(refused))
    for note in notes_on(plan):
        print(note)
    command = shown(["ablate.py", *(sys.argv[1:] if argv is None else argv)])
    with claimed(out):
        make_folder(out / "cells")
        stopped_by = run_plan(plan, arguments.jobs)
        publish(grid, plan, out, command)
    if stopped_by:
        print(f"Interrupted; finished work is kept. Continue with: {command}")
        return exit_status(stopped_by)
    return int(any(planned.failure for planned in plan))


def make_grid(arguments: Arguments) -> Grid:
    """The grid of the file and the flags.

    Raises:
        InputError: an invalid file or flag, or no axis.
    """
    axes = " and ".join(text.partition("=")[0] for text in arguments.vary)
    grid = (read_grid(arguments.grid) if arguments.grid else Grid(f"Ablation of {axes}")).with_axes(arguments.vary)
    if not grid.axes:
        raise InputError("ablate: expected a grid with an axis, or --vary AXIS=VALUE,VALUE,..., found neither")
    grid = grid.with_base(arguments.set)
    for name in ("steps", "data_dir"):
        if getattr(arguments, name) is not None:
            grid = grid.with_base([f"{name}={getattr(arguments, name)}"], "ablate:")
    if arguments.seeds is not None:
        grid = grid.with_seeds(arguments.seeds)
    return grid.with_score(particles=arguments.score_particles, limit=arguments.score_limit)


def out_folder(arguments: Arguments) -> Path:
    """Folder of the ablation; its default name is that of the grid's file, or of the axes of --vary."""
    axes = [text.partition("=")[0] for text in arguments.vary]
    name = arguments.grid.stem if arguments.grid else "-".join(axes)
    return arguments.out or Path("runs") / "ablations" / name


def require_folder(out: Path) -> None:
    """Raise InputError unless the path is a folder or can become one."""
    with writing(out):
        nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise InputError(f"--out {out}: expected a folder, or a place for one, found the file {nearest}")


def make_plan(cells: Sequence[Cell]) -> list[Planned]:
    """Find the work left for every cell.

    Raises:
        InputError: every cell is invalid, two cells are the same run, or a folder holds another run.
    """
    plan = [plan_cell(cell) for cell in cells]
    if not any(planned.config for planned in plan):
        raise InputError(f"all {len(plan)} cells are refused; {plan[0].cell.name}: {plan[0].failure}")
    require_no_twins([(planned.cell, planned.config) for planned in plan if planned.config])
    return plan


def plan_cell(cell: Cell) -> Planned:
    """Find the work left for a cell; a cell with invalid flags keeps its error message.

    Raises:
        InputError: the cell's folder holds another run.
    """
    try:
        config = read_flags(cell.flags)
    except InputError as error:
        return Planned(cell, None, None, str(error))
    return Planned(cell, config, state_of(cell, config))


def describe_plan(plan: Sequence[Planned]) -> str:
    """List the cells, each with the shell command of its remaining work."""
    lines = []
    for planned in plan:
        lines.append(f"# {planned.cell.name}: {planned.state or f'refused: {planned.failure}'}")
        if planned.state and planned.state != "finished":
            lines.append(" && ".join(shown(command) for command in planned.cell.commands(planned.state)))
    return "\n".join([*lines, *notes_on(plan)])


def notes_on(plan: Sequence[Planned]) -> list[str]:
    """A line for each KL weight below 1 at the end of training, with the cells concerned."""
    cells: dict[str, list[str]] = {}
    for planned in plan:
        for note in unfinished_schedules(planned.config) if planned.config else []:
            cells.setdefault(note, []).append(planned.cell.name)
    return [f"# Note: {note}: {' '.join(names)}" for note, names in cells.items()]


def run_plan(plan: Sequence[Planned], jobs: int) -> int:
    """Run the remaining work, with a progress bar; returns the number of the signal that interrupted it, or 0."""
    by_name = {planned.cell.name: planned for planned in plan}
    tasks = [
        Task(name, [runnable(command) for command in planned.cell.commands(planned.state)], planned.cell.log)
        for name, planned in by_name.items()
        if planned.state and planned.state != "finished"
    ]
    done = sum(planned.state in (None, "finished") for planned in plan)
    with tqdm(total=len(plan), initial=done, unit="cell", desc="cells", dynamic_ncols=True) as bar:

        def report(task: Task, failure: str | None) -> None:
            planned = by_name[task.name]
            if failure is None:
                planned.state = "finished"
            else:
                planned.failure = f"{failure} (log: {task.log})"
            bar.write(f"{task.name}: {f'FAILED, {planned.failure}' if failure else 'finished'}")
            bar.update()

        return run_tasks(tasks, jobs, report)


def publish(grid: Grid, plan: Sequence[Planned], out: Path, command: str) -> None:
    """Write the table and the figure of the finished cells, and print the table."""
    measured = {p.cell.name: found for p in plan if p.state == "finished" and (found := measured_or_failed(p))}
    content = report_of(grid, plan, measured, command)
    text = describe_ablation(content)
    write_json(out / "ablation.json", content)
    write_text(out / "table.md", text)
    write_text(out / "table.csv", as_csv(content["rows"]))
    print(text)
    print(out / "table.md", out / "table.csv", out / "ablation.json", sep="\n")
    if measured:
        plot_ablation(points_of(content["rows"]), numeric_axis(grid), grid.title, out / "ablation.png")
        print(out / "ablation.png")


def measured_or_failed(planned: Planned) -> Measured | None:
    """The results of a finished cell; None if its files are damaged, which sets `planned.failure`."""
    try:
        return read_measured(planned.cell)
    except InputError as error:
        planned.failure = str(error)
        return None


def report_of(grid: Grid, plan: Sequence[Planned], measured: dict[str, Measured], command: str) -> dict[str, Any]:
    """The content of ablation.json."""
    stated: dict[str, list[Any]] = {}
    for one in measured.values():
        for name, value in one.stated.items():
            stated.setdefault(name, []).append(value)
    return {
        "title": grid.title,
        "command": command,
        "grid": asdict(grid),
        "stated": {name: list(dict.fromkeys(values)) for name, values in stated.items()},
        "rows": summarize_rows([planned.cell for planned in plan], measured),
        "cells": [_cell_report(planned, measured.get(planned.cell.name)) for planned in plan],
        "environment": environment(),
    }


def _cell_report(planned: Planned, measured: Measured | None) -> dict[str, Any]:
    cell = planned.cell
    return {
        "name": cell.name,
        "labels": cell.labels,
        "seed": cell.seed,
        "flags": cell.flags,
        "commands": [shown(command) for command in cell.commands("to train")],
        "state": planned.state or "refused",
        "failure": planned.failure,
        "measured": measured and measured.quantities,
    }


def points_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points of the figure: one for each row with a finished seed."""
    return [
        {
            "labels": row["labels"],
            "cost": row["mean"][COST],
            "standard_error": row["standard_error"][COST],
            "cost_with_memory_kl": row["mean"].get(COST_WITH_MEMORY),
            "standard_error_with_memory_kl": row["standard_error"].get(COST_WITH_MEMORY),
            "limit": row["limit_nats_per_image"],
            "trustworthy": row["trustworthy"],
        }
        for row in rows
        if row["seeds_finished"]
    ]


def numeric_axis(grid: Grid) -> str | None:
    """The first axis with several numeric values, if any."""
    return next((name for name, axis in grid.axes.items() if len(axis) > 1 and is_numeric(list(axis))), None)


if __name__ == "__main__":
    sys.exit(run_script(main))
