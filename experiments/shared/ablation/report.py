"""The table, the figure and the JSON report of an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.shared.ablation.cells import shown
from experiments.shared.ablation.grid import Grid, is_numeric
from experiments.shared.ablation.plan import Planned
from experiments.shared.ablation.results import COST, COST_WITH_MEMORY, Measured, read_measured, summarize_rows
from experiments.shared.ablation.table import as_csv, describe_ablation
from kpp_pyro.errors import InputError
from kpp_pyro.files.run_folder import environment, write_json, write_text
from kpp_pyro.plots import plot_ablation


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
