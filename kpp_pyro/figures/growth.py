"""Figures of what grows with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kpp_pyro.figures.drawing import save

_QUANTITIES = (("milliseconds", "ms per step (of scoring: ms in all)"), ("peak_mebibytes", "peak MiB in tensors"))


def draw_growth(growth: Sequence[Mapping[str, Any]], path: Path | str | None = None) -> Figure:
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
            for line in lines:
                sizes, values = zip(*((p["size"], p[quantity]) for p in line["points"]), strict=True)
                axis.plot(sizes, values, marker=".", label=f"{line['write']}, power {line[f'{quantity}_power']:.2f}")
            axis.set_xscale("log", base=2 if lines[0]["points"][-1]["size"] <= 1_000 else 10)
            axis.set_yscale("log")
            axis.grid(alpha=0.3, which="both")
            axis.legend(fontsize=7)
            if row:
                axis.set_xlabel(name, fontsize=9)
        panels[row][0].set_ylabel(label)
    return save(figure, path)
