"""The figure of an ablation: costs with standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kpp_pyro.plots.figures import LINES, legend, plain, save, set_scale

_COST = "-ln p(x | memory), nats per image{}less is better"


def plot_ablation(
    points: Sequence[Mapping[str, Any]], numeric_axis: str | None, title: str, path: Path | str | None = None
) -> Figure:
    """Plot the cost per image of all combinations of an ablation, with standard errors over seeds and the limit ln T.

    A numeric axis becomes the x axis, with a line for each combination of the other axes. Without one, each combination
    has a row.

    Args:
        points: for each combination its "labels" by axis, "cost", "standard_error" (None with one seed),
            "cost_with_memory_kl" and "standard_error_with_memory_kl" (None if unknown), "limit" (ln T) and
            "trustworthy".
        numeric_axis: axis of the ablation whose labels are numbers, if any.
        title: of the figure.
        path: file to write, if any.
    """
    height = 4.6 if numeric_axis else 0.42 * len(points) + 2.4
    figure = Figure((6.8, height), layout="constrained")
    axis = figure.subplots()
    if numeric_axis:
        _plot_lines(axis, points, numeric_axis)
    else:
        _plot_rows(axis, points)
    known = all(point["standard_error"] is not None for point in points)
    bars = "standard error over seeds" if known else "standard error over seeds, where there are several"
    axis.set_title(f"{plain(title)}\nBars: {bars}", fontsize=9)
    axis.grid(alpha=0.3)
    legend(axis, columns=2)
    return save(figure, path)


def _plot_rows(axis: Any, points: Sequence[Mapping[str, Any]]) -> None:
    """Plot a row for each combination, with the cost along the x axis."""
    rows = range(len(points))
    for row, point in zip(rows, points, strict=True):
        style = {
            "marker": "o" if point["trustworthy"] else "<",
            "color": "steelblue",
            "ms": 4,
            "capsize": 4,
            "ls": "none",
        }
        axis.errorbar(point["cost"], row, xerr=point["standard_error"], **style)
    with_kl = [(p["cost_with_memory_kl"], row, _kl_error(p)) for row, p in zip(rows, points, strict=True) if _has_kl(p)]
    if with_kl:
        costs, places, errors = zip(*with_kl, strict=True)
        style = {"fmt": "D", "mfc": "none", "color": "steelblue", "capsize": 4}
        axis.errorbar(costs, places, xerr=errors, **style, label="complete: with the KL of the memory")
    if len({point["limit"] for point in points}) == 1:
        axis.axvline(points[0]["limit"], color="firebrick", ls="--", label=f"ln T = {points[0]['limit']:.2f}")
    else:
        axis.plot([point["limit"] for point in points], rows, "|", color="firebrick", ms=12, label="ln T")
    _mark_bounds(axis, points, "<")
    axis.set_yticks(rows, [_label(point["labels"]) for point in points])
    axis.set_ylim(len(points) - 0.4, -0.6)
    axis.set_xlabel(_COST.format("; "))
    set_scale(axis, "x", _costs(points))


def _plot_lines(axis: Any, points: Sequence[Mapping[str, Any]], name: str) -> None:
    """Plot costs against a numeric axis, a line for each combination of the other axes."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for point in sorted(points, key=lambda point: float(point["labels"][name])):
        lines.setdefault(_label({k: v for k, v in point["labels"].items() if k != name}), []).append(point)
    axis.set_prop_cycle(LINES)
    for label, line in lines.items():
        numbers = [float(point["labels"][name]) for point in line]
        errors = [float("nan") if p["standard_error"] is None else p["standard_error"] for p in line]
        costs = [point["cost"] for point in line]
        bars = axis.errorbar(numbers, costs, errors, ms=4, capsize=3, label=label or "-ln p-hat")
        colour = bars[0].get_color()
        bounds = [(x, point["cost"]) for x, point in zip(numbers, line, strict=True) if not point["trustworthy"]]
        with_kl = [
            (x, p["cost_with_memory_kl"], _kl_error(p)) for x, p in zip(numbers, line, strict=True) if _has_kl(p)
        ]
        if bounds:
            axis.plot(*zip(*bounds, strict=True), "v", ms=8, color=colour)
        if with_kl:
            kl_label = f"{label}, complete: with the KL of the memory".removeprefix(", ")
            axis.errorbar(*zip(*with_kl, strict=True), fmt="D:", mfc="none", color=colour, capsize=3, label=kl_label)
    limits = sorted({(float(point["labels"][name]), point["limit"]) for point in points})
    axis.plot(*zip(*limits, strict=True), color="firebrick", ls="--", marker="", label="ln T")
    _mark_bounds(axis, points, "v")
    numbers = sorted({number for number, _ in limits})
    set_scale(axis, "x", numbers)
    set_scale(axis, "y", _costs(points))
    axis.set_xticks(numbers, [f"{number:,g}" for number in numbers])
    axis.set(xlabel=name, ylabel=_COST.format("\n"))


def _mark_bounds(axis: Any, points: Sequence[Mapping[str, Any]], marker: str) -> None:
    """Add the marker of costs that are upper bounds to the legend, if there are any."""
    if not all(point["trustworthy"] for point in points):
        axis.plot([], [], marker, color="grey", label="at most (k-hat above its limit)")


def _has_kl(point: Mapping[str, Any]) -> bool:
    """Whether the KL of the memory is known and not zero."""
    cost = point["cost_with_memory_kl"]
    return cost is not None and cost != point["cost"]


def _kl_error(point: Mapping[str, Any]) -> float:
    """Standard error of the cost with the KL of the memory included; NaN, which has no bar, if unknown."""
    error = point["standard_error_with_memory_kl"]
    return float("nan") if error is None else float(error)


def _costs(points: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """All numbers on the axis of costs; None for those that are unknown."""
    return [value for p in points for value in (p["cost"], p["cost_with_memory_kl"], p["limit"])]


def _label(labels: Mapping[str, str]) -> str:
    return plain(", ".join(labels.values()))
