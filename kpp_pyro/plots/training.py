"""Figures of training: curves of one run, and a comparison of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kpp_pyro.plots.figures import logarithmic, plain, save

_NATS = "_nats_per_image"


def plot_curves(metrics: Sequence[dict[str, Any]], path: Path | str | None = None) -> Figure:
    """Plot the negative ELBO, its terms and the memory gain on the validation set against the step.

    Args:
        metrics: records of metrics.jsonl.
        path: file to write, if any.
    """
    needed = ("elbo_nats_per_image", "reconstruction_nats_per_image")
    seen = [record for record in _validation(metrics) if all(record.get(key) is not None for key in needed)]
    steps = [record["step"] for record in seen]
    figure = Figure((12, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    terms = {"elbo": ("-", "-ELBO"), "reconstruction": ("--", "-reconstruction")}
    if seen and all(record.get("left_out_elbo_nats_per_image") is not None for record in seen):
        terms["left_out_elbo"] = ("-.", "-ELBO, images left out")
    for name, (style, label) in terms.items():
        left.plot(steps, [-record[f"{name}_nats_per_image"] for record in seen], style, marker=".", label=label)
    kls = {name for record in seen for name in record if name.startswith("kl_") and name.endswith(_NATS)}
    for name in sorted(kls):
        site = name.removeprefix("kl_").removesuffix(_NATS)
        middle.plot(steps, [record.get(name) for record in seen], marker=".", label=f"KL of {site}")
    gain = [record.get("memory_gain_nats_per_image") for record in seen]
    right.plot(steps, gain, marker=".", label="memory gain")
    for axis, title in ((left, "Validation set"), (middle, "KL terms"), (right, "Own minus another's memory")):
        axis.set(xlabel="step", ylabel="nats per image", title=title)
        axis.grid(alpha=0.3, which="both")
        if seen:
            axis.legend()
    logarithmic(left)
    middle.set_ylim(bottom=0)
    return save(figure, path)


def _validation(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in metrics if record["split"] == "validation"]


def plot_comparison(metrics: Mapping[str, Sequence[dict[str, Any]]], path: Path | str | None = None) -> Figure:
    """Plot the negative ELBO on the validation set against training time, a line for each run.

    Args:
        metrics: records of metrics.jsonl by the name of the run.
        path: file to write, if any.
    """
    figure = Figure((6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, records in metrics.items():
        needed = ("training_seconds", "elbo_nats_per_image")
        seen = [record for record in _validation(records) if all(record.get(key) is not None for key in needed)]
        minutes = [record["training_seconds"] / 60 for record in seen]
        axis.plot(minutes, [-record["elbo_nats_per_image"] for record in seen], marker=".", label=_legend(name))
    axis.set(xlabel="minutes of training", ylabel="-ELBO, nats per image", title="Validation set")
    logarithmic(axis)
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return save(figure, path)


def _legend(name: str) -> str:
    """A name as Matplotlib shows it in a legend, which leaves out names that begin with an underscore."""
    return f" {plain(name)}" if name.startswith("_") else plain(name)
