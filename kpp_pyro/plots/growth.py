"""Figures of scaling: time and peak memory against sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpp_pyro.plots.figures import LINES, legend, logarithmic, save

_OPERATIONS = {
    "write": "write (as in training)",
    "read": "read what was written (as in training)",
    "recall": "read by the content of a cue (forwards only)",
}
_QUANTITIES = (("milliseconds", "ms per step (of scoring: ms in all)"), ("peak_mebibytes", "peak MiB in tensors"))


def plot_growth(growth: Sequence[Mapping[str, Any]], path: Path | str | None = None) -> Figure:
    """Plot time and peak memory against sizes: a column for each axis of sizes, a line for each write.

    Args:
        growth: for each line its "axis", "write" and "points", which have "size", "milliseconds" and "peak_mebibytes".
        path: file to write, if any.
    """
    names = list(dict.fromkeys(line["axis"] for line in growth))
    figure = Figure((2.9 * len(names), 6.4), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False, sharex="col", sharey="row")
    for row, (quantity, label) in enumerate(_QUANTITIES):
        for column, name in enumerate(names):
            axis, lines = panels[row][column], [line for line in growth if line["axis"] == name]
            if row:
                axis.set_xlabel(name, fontsize=9)
            _plot_lines(axis, {line["write"]: line for line in lines}, quantity)
        logarithmic(panels[row][0], "y", [point[quantity] for line in growth for point in line["points"]])
        panels[row][0].set_ylabel(label)
    return save(figure, path)


def plot_memory_costs(costs: Sequence[Mapping[str, Any]], path: Path | str | None = None) -> Figure:
    """Plot the time of writes and reads against T: a panel for each operation, a line for each type of memory.

    Args:
        costs: for each memory its "memory" (a name) and "points", which have "size" (T), "write_milliseconds",
            "read_milliseconds" and "recall_milliseconds".
        path: file to write, if any.
    """
    figure = Figure((4.2 * len(_OPERATIONS), 4.4), layout="constrained")
    panels = figure.subplots(1, len(_OPERATIONS), sharex=True, sharey=True)
    for axis, (operation, title) in zip(panels, _OPERATIONS.items(), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("T, images per episode")
        _plot_lines(axis, {line["memory"]: line for line in costs}, f"{operation}_milliseconds")
    quantities = [f"{operation}_milliseconds" for operation in _OPERATIONS]
    logarithmic(panels[0], "y", [point[name] for line in costs for point in line["points"] for name in quantities])
    panels[0].set_ylabel("ms per episode")
    return save(figure, path)


def _plot_lines(axis: Axes, lines: Mapping[str, Mapping[str, Any]], quantity: str) -> None:
    """Plot one line for each name, on a logarithmic axis of sizes."""
    axis.set_prop_cycle(LINES)
    for name, line in lines.items():
        sizes, values = zip(*((point["size"], point[quantity]) for point in line["points"]), strict=True)
        axis.plot(sizes, values, ms=3, label=f"{name}, power {line[f'{quantity}_power']:.2f}")
        logarithmic(axis, "x", sizes, base=2 if max(sizes) <= 1_000 else 10)
    axis.grid(alpha=0.3)
    legend(axis)
