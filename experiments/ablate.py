"""Train and score every cell of a grid, and compare the cells in one table.

python experiments/ablate.py experiments/configs/memories.yaml
python experiments/ablate.py experiments/configs/memories.yaml --set dataset=mnist --set preset=small --out runs/mnist
python experiments/ablate.py --vary write=allocate,allocate_by_content --vary memory_width=10,40 --seeds 3 --dry-run

Run it again to continue, or to write the table again: finished cells are not repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from experiments.shared.ablation.grid import MOST_CELLS, Grid, read_grid
from experiments.shared.command_line import Plugins, parse, script_name
from experiments.shared.script import run_script
from inference.ranges import Limit, Particles
from inference.runs.interruption import exit_status
from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import make_folder, writing
from kpp_pyro.files.claim import claimed
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
    """Cells that run at the same time. Each gets an equal share of the idle cores, unless OMP_NUM_THREADS is set."""
    out: Path | None = None
    """Folder of the ablation. None: runs/ablations/GRID."""
    data_dir: Path | None = None
    """Folder of the data sets, the same as --set data_dir=DIR."""
    plugin: Plugins = ()
    dry_run: bool = False
    """Print the cells and the commands that each still needs, and stop."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    grid, out = make_grid(arguments), out_folder(arguments)
    require_folder(out)
    from experiments.shared.ablation.cells import make_cells, shown
    from experiments.shared.ablation.plan import describe_plan, make_plan, notes_on, run_plan

    plan = make_plan(make_cells(grid, out, arguments.plugin))
    if arguments.dry_run:
        print(describe_plan(plan))
        refused = [planned.cell.name for planned in plan if planned.failure]
        if refused:
            print(f"error: {len(refused)} of {len(plan)} cells are refused: {', '.join(refused)}", file=sys.stderr)
        return int(bool(refused))
    from experiments.shared.ablation.report import publish

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
        expected = "a grid with an axis, or --vary AXIS=VALUE,VALUE,..."
        raise InputError(f"{script_name()}: expected {expected}, found neither")
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


command = partial(run_script, main)

if __name__ == "__main__":
    sys.exit(command())
