"""The work left for every cell of a grid: to list it, and to run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.shared.ablation.cells import (
    Cell,
    State,
    read_flags,
    require_no_twins,
    runnable,
    shown,
    state_of,
    unfinished_schedules,
)
from experiments.shared.ablation.running import Task, run_tasks
from inference.runs.config import Config
from kpp_pyro.errors import InputError
from kpp_pyro.progress import show_progress


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
    with show_progress(label="cells", total=len(plan), initial=done, unit="cell") as bar:

        def report(task: Task, failure: str | None) -> None:
            planned = by_name[task.name]
            if failure is None:
                planned.state = "finished"
            else:
                planned.failure = f"{failure} (log: {task.log})"
            bar.write(f"{task.name}: {f'FAILED, {planned.failure}' if failure else 'finished'}")
            bar.update()

        return run_tasks(tasks, jobs, report)
