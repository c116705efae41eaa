"""Figures of scores: Pareto k-hat, bounds by number of particles, and control memories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from kpp_pyro.plots.figures import legend, logarithmic, plain, save, set_scale

_MEMORY_NAMES = {
    "own": "own episode's memory",
    "left_out": "own, written without it",
    "other": "another episode's",
    "empty": "empty",
    "complete": "complete: with its KL",
}


def plot_pareto_k(pareto_k: Sequence[float | None], limit: float | None, path: Path | str | None = None) -> Figure:
    """Plot a histogram of the Pareto k-hat of all images; the title counts non-finite values.

    If none is finite, a sentence says so in place of the histogram.

    Args:
        pareto_k: k-hat of each image; None if it is not finite.
        limit: k-hat above which the estimate of an image is unreliable; it depends on the number of particles. None: no
            estimate is reliable.
        path: file to write, if any.
    """
    known = [value for value in pareto_k if value is not None]
    figure = Figure((5.2, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.set_title("k-hat of the importance weights", fontsize=9)
    if not known:
        sentence = f"k-hat is not known for any of {len(pareto_k):,} images:\nit needs more particles (--particles)"
        axis.text(0.5, 0.5, sentence, ha="center", va="center", fontsize=9, transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        return save(figure, path)
    limit = -math.inf if limit is None else limit
    axis.hist([min(max(value, -1.0), 2.0) for value in known], bins=60, range=(-1, 2), color="steelblue")
    axis.axvspan(max(limit, -1.05), 2, color="firebrick", alpha=0.12, lw=0)
    axis.axvline(max(limit, -1.05), color="firebrick", label=f"{limit:.2f}: above, not to be trusted")
    above = 1 - sum(value <= limit for value in known) / max(1, len(pareto_k))
    missing = len(pareto_k) - len(known)
    title = f"{axis.get_title()}: {above:.1%} of {len(pareto_k):,} images above {limit:.2f}"
    axis.set_title(title + (f"\n({missing:,} not finite)" if missing else ""), fontsize=9)
    axis.set(xlabel="k-hat (PSIS), from -1 or less to 2 or more", ylabel="images", xlim=(-1.05, 2.05))
    legend(axis)
    return save(figure, path)


def plot_bounds(bounds: Sequence[dict[str, float]], elbo: float, path: Path | str | None = None) -> Figure:
    """Plot -ln p-hat_K, an upper bound on the cost per image, against the number of particles K, with standard errors.

    Args:
        bounds: of each number of particles, from `evaluation.json`.
        elbo: nats per image.
        path: file to write, if any.
    """
    figure = Figure((5.2, 3.6), layout="constrained")
    axis = figure.subplots()
    particles = [bound["particles"] for bound in bounds]
    costs = [-bound["log_likelihood_nats_per_image"] for bound in bounds]
    errors = [bound["log_likelihood_standard_error"] or 0.0 for bound in bounds]
    axis.errorbar(particles, costs, errors, marker=".", capsize=2, label="-ln p-hat, K particles")
    axis.axhline(-elbo, color="darkorange", ls="--", label=f"-ELBO, {-elbo:.2f}")
    axis.set(xlabel="particles K", ylabel="nats per image", title="Bound on the cost of an image")
    logarithmic(axis, "x", particles)
    set_scale(axis, "y", [*costs, -elbo])
    axis.grid(alpha=0.3)
    legend(axis, columns=2)
    return save(figure, path)


def plot_positions(complete: Mapping[str, Any], path: Path | str | None = None) -> Figure:
    """Plot the cost of an image, given the images before it, against its position in the episode.

    A second panel has it by the number of images of its class among those before it, where there are any.

    Args:
        complete: the complete score, from `evaluation.json`.
        path: file to write, if any.
    """
    by_class = len(complete["elbo_by_images_of_class_before_nats_per_image"]) > 1
    figure = Figure((9.6 if by_class else 5.2, 3.6), layout="constrained")
    axes = figure.subplots(1, 2 if by_class else 1, sharey=True, squeeze=False)[0]
    axes[0].set(xlabel="position in the episode", ylabel="nats per image")
    _plot_costs(axes[0], complete, "position", 1)
    if by_class:
        axes[1].set(xlabel="images of its class among those before it")
        _plot_costs(axes[1], complete, "images_of_class_before", 0)
    figure.suptitle("Cost of an image after those before it")
    return save(figure, path)


def _plot_costs(axis: Axes, complete: Mapping[str, Any], by: str, first: int) -> None:
    """Draw -ELBO and -ln p-hat against whole numbers from `first` on; where there is no mean, there is no point."""
    labels = {"elbo": "-ELBO", "log_likelihood": f"-ln p-hat, K = {complete['particles']:,}"}
    for (name, label), color in zip(labels.items(), ("darkorange", "steelblue"), strict=True):
        means = complete[f"{name}_by_{by}_nats_per_image"]
        costs = [math.nan if mean is None else -mean for mean in means]
        axis.plot(range(first, first + len(costs)), costs, marker=".", color=color, label=label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    legend(axis, columns=2)


def plot_controls(scores: Mapping[str, dict[str, Any]], limit: float, path: Path | str | None = None) -> Figure:
    """Plot the cost per image for the episode's own memory and for control memories, with the limit ln T.

    The axis is linear and begins at 0, so that the lengths of the bars compare.

    Args:
        scores: by memory, from `evaluation.json`.
        limit: -ln T, ln p of a perfect memory with T equally probable images, in nats per image; 0 for none.
        path: file to write, if any.
    """
    figure = Figure((6.4, 0.55 * len(scores) + 1.1), layout="constrained")
    axis = figure.subplots()
    names = list(scores)
    for row, name in enumerate(names):
        score = scores[name]
        cost, error = -score["log_likelihood_nats_per_image"], score["log_likelihood_standard_error"] or 0.0
        axis.barh(row, cost, xerr=error, color="steelblue" if row == 0 else "lightsteelblue", capsize=2)
        sign = "" if score["trustworthy"] else "≤ "  # -ln p-hat is an upper bound, which may not be tight
        text = f"{sign}{cost:.2f}" if cost < 100 else f"{sign}{cost:,.0f}"
        beside = (max(cost + error, -limit), row)
        axis.annotate(text, beside, xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    if limit:
        axis.axvline(-limit, color="firebrick", ls=":")
        axis.set_title(f"Dotted: ln T = {-limit:.2f}, the cost of choosing one of T images", fontsize=9)
    axis.set_yticks(range(len(names)), [_MEMORY_NAMES.get(name, plain(name)) for name in names])
    axis.invert_yaxis()
    axis.set_xlabel("-ln p(x | memory), nats per image; less is better")
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.margins(x=0.2)  # for the numbers beside the bars
    return save(figure, path)
