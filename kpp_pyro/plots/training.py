"""Figures of training: curves of one run, and a comparison of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kpp_pyro.likelihoods import kl_sites
from kpp_pyro.plots.figures import LINES, legend, plain, save, set_scale

_SHORT_SECONDS = 120  # runs that are shorter are compared in seconds
_GAIN = "Own minus another's memory"
_Lines = Mapping[str, Sequence[float | None]]  # by label, a value for each step


def plot_curves(metrics: Sequence[dict[str, Any]], path: Path | str | None = None) -> Figure:
    """Plot the negative ELBO, its terms and the memory gain on the validation set against the step.

    Args:
        metrics: records of metrics.jsonl; a memory gain that was not measured has no panel.
        path: file to write, if any.
    """
    needed = ("elbo_nats_per_image", "reconstruction_nats_per_image")
    seen = [record for record in _validation(metrics) if all(record.get(key) is not None for key in needed)]
    costs, kls, gain = _costs(seen), _kls(seen), [record.get("memory_gain_nats_per_image") for record in seen]
    panels: dict[str, _Lines] = {"Validation set": costs, "KL terms": kls, _GAIN: {"memory gain": gain}}
    if seen and all(value is None for value in gain):
        del panels[_GAIN]
    figure = Figure((4 * len(panels), 3.9), layout="constrained")
    for axis, (title, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        _plot_lines(axis, [record["step"] for record in seen], lines)
        axis.set_title(title)
    set_scale(figure.axes[0], "y", [value for line in costs.values() for value in line])
    figure.axes[1].set_ylim(bottom=0)
    return save(figure, path)


def _costs(seen: Sequence[dict[str, Any]]) -> _Lines:
    """-ELBO and its parts, of validation records."""
    terms = {"-ELBO": "elbo", "-reconstruction": "reconstruction"}
    if seen and all(record.get("left_out_elbo_nats_per_image") is not None for record in seen):
        terms["-ELBO, images left out"] = "left_out_elbo"
    return {label: [-record[f"{name}_nats_per_image"] for record in seen] for label, name in terms.items()}


def _kls(seen: Sequence[dict[str, Any]]) -> _Lines:
    """The KL of every site, of validation records."""
    sites = kl_sites({name for record in seen for name in record})
    return {f"KL of {sites[name]}": [record.get(name) for record in seen] for name in sorted(sites)}


def _plot_lines(axis: Any, steps: Sequence[int], lines: _Lines) -> None:
    axis.set_prop_cycle(LINES)
    for label, values in lines.items():
        axis.plot(steps, values, ms=3, label=label)
    axis.set(xlabel="step", ylabel="nats per image")
    axis.grid(alpha=0.3)
    if len(lines) > 1:
        legend(axis, columns=2)


def _validation(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in metrics if record["split"] == "validation"]


def plot_comparison(
    metrics: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]], path: Path | str | None = None
) -> Figure:
    """Plot the negative ELBO on the validation set against training time, a line for each run.

    Nats of images of different kinds do not compare. Each kind has a panel of its own.

    Args:
        metrics: records of metrics.jsonl by the name of the run, by the kind of its images and episodes.
        path: file to write, if any.
    """
    lines = max(len(runs) for runs in metrics.values())
    figure = Figure((max(6.4, 4.8 * len(metrics)), 3.6 + 0.16 * lines), layout="constrained")
    for axis, (kind, runs) in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics.items(), strict=True):
        axis.set_title(f"Validation set\n{kind}", fontsize=10)
        axis.set_prop_cycle(LINES)
        seen = {name: _timed(records) for name, records in runs.items()}
        longest_seconds = max(
            (record["training_seconds"] for records in seen.values() for record in records), default=0
        )
        unit, seconds = ("seconds", 1) if longest_seconds < _SHORT_SECONDS else ("minutes", 60)
        axis.set(xlabel=f"{unit} of training", ylabel="-ELBO, nats per image")
        for name, records in seen.items():
            times = [record["training_seconds"] / seconds for record in records]
            axis.plot(times, [-record["elbo_nats_per_image"] for record in records], ms=3, label=_legend(name))
        axis.set_xlim(left=0)
        set_scale(axis, "y", [value for line in axis.lines for value in line.get_ydata()])
        axis.grid(alpha=0.3)
        legend(axis)
    return save(figure, path)


def _timed(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The validation records with a time and a bound."""
    needed = ("training_seconds", "elbo_nats_per_image")
    return [record for record in _validation(records) if all(record.get(key) is not None for key in needed)]


def _legend(name: str) -> str:
    """A name as Matplotlib shows it in a legend, which leaves out names that begin with an underscore."""
    return f" {plain(name)}" if name.startswith("_") else plain(name)
