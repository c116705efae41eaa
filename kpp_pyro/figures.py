"""Figures of a run, one function each: tensors in, a PNG file out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

_DPI = 130
_KEY_COLOURS = matplotlib.colormaps["turbo"]
_MEMORY_NAMES = {
    "own": "own episode's memory",
    "left_out": "own, written without it",
    "other": "another episode's",
    "empty": "empty",
}
_INK = matplotlib.colormaps["gray"].with_extremes(bad="slategray")  # between the images


def draw_reconstructions(originals: Tensor, reconstructions: Tensor, path: Path, columns: int = 16) -> Figure:
    """Draw images (N, C, H, W) over their reconstructions (pixel probabilities), in pairs of rows."""
    shown = min(len(originals), 2 * columns)
    rows: list[tuple[str, Tensor]] = []
    for start in range(0, shown, columns):
        rows.append(("original", originals[start : start + columns]))
        rows.append(("reconstruction", reconstructions[start : start + columns]))
    return _draw_image_rows(rows, "Images of an episode, and what is read back from its memory", path)


def draw_samples(samples: Tensor, path: Path) -> Figure:
    """Draw samples (memories, S, C, H, W), pixel probabilities: a row for each memory."""
    rows = [(f"memory {index + 1}", images) for index, images in enumerate(samples)]
    return _draw_image_rows(rows, "Samples: keys drawn from the prior, read from a memory", path)


def draw_memory(memory: Tensor, boxes: Tensor, path: Path, most_channels: int = 8) -> Figure:
    """Draw the channels of one memory (C_m, H_m, W_m) with the boxes (T, R, 4) that its keys read.

    Boxes are (left, top, width, height) in memory pixels, one colour per image of the episode.
    """
    channels = min(memory.shape[0], most_channels)
    columns = min(channels, 2 if memory.shape[2] > 1.5 * memory.shape[1] else 4)
    rows = -(-channels // columns)
    panel_width = 4.2 if columns == 2 else 2.6
    panel_height = panel_width * memory.shape[1] / memory.shape[2]
    size = (1.1 * columns * panel_width, rows * (panel_height + 0.25) + 0.3)  # the colour bar takes a tenth
    figure = Figure(size, layout="constrained")  # no pyplot: it would keep every figure, and may want a screen
    axes = figure.subplots(rows, columns, squeeze=False)
    limit = float(memory.abs().max()) or 1.0
    for channel, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if channel >= channels:
            continue
        extent = (0, memory.shape[2], memory.shape[1], 0)
        image = axis.imshow(
            memory[channel].detach().cpu().numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent
        )
        axis.set_title(f"channel {channel + 1} of {memory.shape[0]}", fontsize=9)
        _draw_boxes(axis, boxes)
    figure.colorbar(image, ax=axes, shrink=0.8, label="value")
    figure.suptitle("Memory of an episode, with the block that each image's key reads", fontsize=10)
    return _save(figure, path)


def draw_curves(metrics: Sequence[dict[str, Any]], path: Path) -> Figure:
    """Draw the negative ELBO, its terms and the memory gain on the validation set against the step."""
    seen = [record for record in metrics if record["split"] == "validation"]
    steps = [record["step"] for record in seen]
    figure = Figure((12, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, style, label in (("elbo", "-", "-ELBO"), ("reconstruction", "--", "-reconstruction")):
        left.plot(steps, [-record[f"{name}_nats_per_image"] for record in seen], style, marker=".", label=label)
    for name in sorted({name for record in seen for name in record if name.startswith("kl_")}):
        site = name.removeprefix("kl_").removesuffix("_nats_per_image")
        middle.plot(steps, [record.get(name) for record in seen], marker=".", label=f"KL of {site}")
    gain = [record.get("memory_gain_nats_per_image") for record in seen]
    right.plot(steps, gain, marker=".", label="memory gain")
    for axis, title in ((left, "Validation set"), (middle, "KL terms"), (right, "Own minus another's memory")):
        axis.set(xlabel="step", ylabel="nats per image", title=title)
        axis.grid(alpha=0.3, which="both")
        if seen:
            axis.legend()
    _logarithmic(left)
    middle.set_ylim(bottom=0)
    return _save(figure, path)


def draw_comparison(metrics: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> Figure:
    """Draw the negative ELBO on the validation set against training time, a line for each run by its name."""
    figure = Figure((6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, records in metrics.items():
        seen = [record for record in records if record["split"] == "validation"]
        minutes = [record["training_seconds"] / 60 for record in seen]
        axis.plot(minutes, [-record["elbo_nats_per_image"] for record in seen], marker=".", label=name)
    axis.set(xlabel="minutes of training", ylabel="-ELBO, nats per image", title="Validation set")
    _logarithmic(axis)
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return _save(figure, path)


def draw_pareto_k(pareto_k: Sequence[float | None], path: Path) -> Figure:
    """Draw the histogram of every image's k-hat; those that are not finite are counted in the title."""
    known = [value for value in pareto_k if value is not None]
    figure = Figure((5.2, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.hist([min(max(value, -1.0), 2.0) for value in known], bins=60, range=(-1, 2), color="steelblue")
    axis.axvspan(0.7, 2, color="firebrick", alpha=0.12, lw=0)
    axis.axvline(0.7, color="firebrick", label="0.7: above, not to be trusted")
    bad = 1 - sum(value <= 0.7 for value in known) / max(1, len(pareto_k))
    missing = len(pareto_k) - len(known)
    title = f"k-hat of the importance weights: {bad:.1%} of {len(pareto_k):,} images above 0.7"
    axis.set_title(title + (f" ({missing:,} not finite)" if missing else ""), fontsize=9)
    axis.set(xlabel="k-hat (PSIS), from -1 or less to 2 or more", ylabel="images", xlim=(-1.05, 2.05))
    axis.legend(fontsize=8)
    return _save(figure, path)


def draw_bounds(bounds: Sequence[dict[str, float]], elbo: float, path: Path) -> Figure:
    """Draw -ln p-hat_K, the upper bound on the cost of an image, against the particles K, with standard errors.

    Args:
        bounds: by number of particles, as `evaluation.json` has them.
        elbo: nats per image.
        path: file to write.
    """
    figure = Figure((5.2, 3.4), layout="constrained")
    axis = figure.subplots()
    particles = [bound["particles"] for bound in bounds]
    costs = [-bound["log_likelihood_nats_per_image"] for bound in bounds]
    errors = [bound["log_likelihood_standard_error"] or 0.0 for bound in bounds]
    axis.errorbar(particles, costs, errors, marker=".", capsize=2, label="-ln p-hat, K particles")
    axis.axhline(-elbo, color="darkorange", ls="--", label=f"-ELBO, {-elbo:.2f}")
    axis.set(xscale="log", xlabel="particles K", ylabel="nats per image", title="Bound on the cost of an image")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return _save(figure, path)


def draw_controls(scores: Mapping[str, dict[str, Any]], limit: float, path: Path) -> Figure:
    """Draw the cost of an image read from each memory, own and controls, on a logarithmic axis, beside ln T.

    Args:
        scores: by memory, as `evaluation.json` has them.
        limit: ln p of a perfect memory that still has to say which image, nats per image.
        path: file to write.
    """
    figure = Figure((6.4, 0.55 * len(scores) + 1.1), layout="constrained")
    axis = figure.subplots()
    names = list(scores)
    for row, name in enumerate(names):
        score = scores[name]
        cost, error = -score["log_likelihood_nats_per_image"], score["log_likelihood_standard_error"] or 0.0
        axis.barh(row, cost, xerr=error, color="steelblue" if row == 0 else "lightsteelblue", capsize=2)
        sign = "" if score["trustworthy"] else "≤ "  # ln p-hat is a bound, and here not known to be tight
        text = f" {sign}{cost:.2f}" if cost < 100 else f" {sign}{cost:.0f}"
        axis.annotate(text, (cost + error, row), va="center", fontsize=9)
    axis.axvline(-limit, color="firebrick", ls=":")
    axis.set_title(f"Dotted: ln T = {-limit:.2f}, to say which image", fontsize=9)
    axis.set_yticks(range(len(names)), [_MEMORY_NAMES.get(name, name) for name in names])
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="-ln p(x | memory), nats per image; less is better")
    axis.margins(x=0.25)
    return _save(figure, path)


def _draw_image_rows(rows: Sequence[tuple[str, Tensor]], title: str, path: Path) -> Figure:
    columns = max(len(images) for _, images in rows)
    figure = Figure((max(5.0, 0.62 * columns + 1.4), 0.62 * len(rows) + 0.45), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)
    for axis, (label, images) in zip(axes[:, 0], rows, strict=True):
        strip = images.detach().cpu()[:, 0]  # (N, H, W)
        height, width = strip.shape[1:]
        framed = strip.new_full((columns, height + 2, width + 2), float("nan"))
        framed[: len(strip), 1:-1, 1:-1] = strip
        axis.imshow(framed.movedim(0, 1).flatten(1).numpy(), cmap=_INK, vmin=0, vmax=1)
        axis.set_yticks([(height + 1) / 2], [label], fontsize=9)
        axis.set_xticks([])
        axis.tick_params(left=False)
        axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def _draw_boxes(axis: Any, boxes: Tensor) -> None:
    images = boxes.shape[0]
    inset = 0.12  # so that neighbours' edges do not hide each other
    for index, box in enumerate(boxes.detach().cpu()):
        for left, top, width, height in box.tolist():
            colour = _KEY_COLOURS(index / max(1, images - 1))
            corner = (left + inset, top + inset)
            frame = Rectangle(corner, width - 2 * inset, height - 2 * inset, fill=False, edgecolor=colour, lw=1.1)
            axis.add_patch(frame)


def _logarithmic(axis: Any) -> None:
    """Make the y axis logarithmic, with plain numbers on it."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(ScalarFormatter())


def _save(figure: Figure, path: Path) -> Figure:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    return figure
