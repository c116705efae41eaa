"""Figures of what grows with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpp_pyro.plots.drawing import save

_ACTS = {
    "write": "write (as in training)",
    "read": "read what was written (as in training)",
    "recall": "read by what a cue looks like (forwards only)",
}
_QUANTITIES = (("milliseconds", "ms per step (of scoring: ms in all)"), ("peak_mebibytes", "peak MiB in tensors"))


def plot_growth(growth: Sequence[Mapping[str, Any]], path: Path | str | None = None) -> Figure:
    """Draw time and peak memory along every axis that was measured: an axis a column, a write a line.

    Args:
        growth: of every line, its "axis", "write" and "points", each of a "size", "milliseconds", "peak_mebibytes".
        path: file to write, if any.
    """
    names = list(dict.fromkeys(line["axis"] for line in growth))
    figure = Figure((2.9 * len(names), 5.4), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False, sharex="col", sharey="row")
    for row, (quantity, label) in enumerate(_QUANTITIES):
        for column, name in enumerate(names):
            axis, lines = panels[row][column], [line for line in growth if line["axis"] == name]
            _draw_lines(axis, {line["write"]: line for line in lines}, quantity)
            if row:
                axis.set_xlabel(name, fontsize=9)
        panels[row][0].set_ylabel(label)
    return save(figure, path)


def plot_memory_costs(costs: Sequence[Mapping[str, Any]], path: Path | str | None = None) -> Figure:
    """Draw what it costs to write to and to read from every memory, against T: an act a panel, a memory a line.

    Args:
        costs: of every memory, its "memory" (a name) and "points", each of a "size" (T), "write_milliseconds",
            "read_milliseconds" and "recall_milliseconds".
        path: file to write, if any.
    """
    figure = Figure((4.2 * len(_ACTS), 4.4), layout="constrained")
    panels = figure.subplots(1, len(_ACTS), sharex=True, sharey=True)
    for axis, (act, title) in zip(panels, _ACTS.items(), strict=True):
        _draw_lines(axis, {line["memory"]: line for line in costs}, f"{act}_milliseconds")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("T, images per episode")
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14))  # below: curves are everywhere
    panels[0].set_ylabel("ms per episode")
    return save(figure, path)


def _draw_lines(axis: Axes, lines: Mapping[str, Mapping[str, Any]], quantity: str) -> None:
    """One line for each name, on logarithmic axes."""
    for name, line in lines.items():
        sizes, values = zip(*((point["size"], point[quantity]) for point in line["points"]), strict=True)
        axis.plot(sizes, values, marker=".", label=f"{name}, power {line[f'{quantity}_power']:.2f}")
        axis.set_xscale("log", base=2 if sizes[-1] <= 1_000 else 10)
    axis.set_yscale("log")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=7)
