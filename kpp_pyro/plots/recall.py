"""Figures of recall: corrupted cues, read by read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from kpp_pyro.distances import SQUARED_ERROR, WRONG_PIXELS, distance_in
from kpp_pyro.plots.figures import legend, plain, plot_image_table, save, set_scale

_STRENGTHS = matplotlib.colormaps["viridis"]
_ERRORS = {  # name in the report, label, scale
    WRONG_PIXELS: ("wrong_pixels_per_image", "wrong pixels per image", "symlog"),
    SQUARED_ERROR: ("psnr_db", "PSNR of the mean error, dB", "linear"),
}
_CAPTION = 22  # characters of a line: the end of a file's name says most
_NATS = ("nats_per_image", "-ln p(x | z), nats per image")


def plot_denoising(
    corruption: str, cases: Mapping[float, Tensor], titles: Sequence[str], path: Path | str | None = None
) -> Figure:
    """Plot iterated reads of corrupted images, a row for each image.

    Args:
        corruption: name of the corruption.
        cases: by strength, images (N, columns, C, H, W): the clean image, the cue and the reads.
        titles: of the columns.
        path: file to write, if any.
    """
    rows = [
        (f"{strength:g}" if first == 0 else "", images)
        for strength, many in cases.items()
        for first, images in enumerate(many)
    ]
    return plot_image_table(
        rows, f"Recalled from corrupted cues: {corruption.replace('_', ' ')}, by strength", path, titles
    )


def plot_matches(
    rows: Sequence[tuple[str, Tensor, Sequence[tuple[str, Tensor]]]], path: Path | str | None = None
) -> Figure:
    """Plot cues, a row for each, beside the images of a collection that they may be copies of.

    Args:
        rows: caption and image (C, H, W) of a cue, and captions and images of its matches, best first.
        path: file to write, if any.
    """
    columns = 1 + max(len(matches) for _, _, matches in rows)
    figure = Figure((0.4 + 1.35 * columns, 0.3 + 1.6 * len(rows)), layout="constrained")
    for axes, (caption, cue, matches) in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axis in axes:
            axis.set_axis_off()
        for axis, (text, image) in zip(axes, [(caption, cue), *matches], strict=False):
            axis.imshow(image.detach().float().cpu().clamp(0, 1).expand(3, -1, -1).movedim(0, -1).numpy())
            axis.set_title("\n".join(plain(line[-_CAPTION:]) for line in text.split("\n")), fontsize=7)
    return save(figure, path)


def plot_denoising_curves(results: Sequence[Mapping[str, Any]], path: Path | str | None = None) -> Figure:
    """Plot wrong pixels or PSNR, and nats, against reads: a column per corruption, a line per strength.

    Args:
        results: "results" of `denoise.json`.
        path: file to write, if any.
    """
    distance = distance_in(results[0])
    error, label, scale = _ERRORS[distance]
    corruptions = list(dict.fromkeys(result["corruption"] for result in results))
    figure = Figure((1.0 + 2.8 * len(corruptions), 6.0), layout="constrained")
    axes = figure.subplots(2, len(corruptions), squeeze=False, sharex=True, sharey="row")
    for column, corruption in zip(axes.T, corruptions, strict=True):
        cases = [result for result in results if result["corruption"] == corruption]
        for index, case in enumerate(cases):
            colour = _STRENGTHS(0.85 * index / max(1, len(cases) - 1))
            for axis, quantity in zip(column, (error, _NATS[0]), strict=True):
                _plot_case(axis, case, quantity, colour)
        column[0].set(title=corruption.replace("_", " "), yscale=scale)
        if scale == "symlog":
            column[0].set_ylim(0, None)
        column[0].yaxis.set_major_formatter(ScalarFormatter())
        column[1].set_xlabel("reads (0: the cue)")
        for axis in column:
            axis.grid(alpha=0.3)
        legend(column[1], columns=3, title="strength")
    set_scale(axes[1, 0], "y", [value for axis in axes[1] for line in axis.lines for value in line.get_ydata()])
    for axis, name in zip(axes[:, 0], (label, _NATS[1]), strict=True):
        axis.set_ylabel(name)
    lines = "Solid: read from memory. Dashed: networks alone. Dotted: mask known. Cross: nearest written image"
    exact = "" if distance.binary else " (none where it is always exact)"
    figure.suptitle(fill(lines + exact, int(14 * figure.get_figwidth())), fontsize=9)  # 14 letters are an inch
    return save(figure, path)


def _plot_case(axis: Any, case: Mapping[str, Any], quantity: str, colour: Any) -> None:
    """Plot one quantity against reads, for one corruption and strength."""
    cue = _numbers([case[f"cue_{quantity}"]]) if f"cue_{quantity}" in case else []
    for kind, style in (("recall", "-"), ("memoryless", "--"), ("completion", ":")):
        errors = case[kind]
        if errors is None:
            continue
        values = [*cue, *_numbers(errors[quantity])]
        bars = [0.0] * len(cue) + [error or 0.0 for error in errors[f"{quantity}_standard_error"]]
        steps = range(1 - len(cue), 1 + len(errors[quantity]))
        label = f"{case['strength']:g}" if kind == "recall" else None
        axis.errorbar(steps, values, bars, ls=style, marker=".", color=colour, label=label, lw=1.2)
    axis.plot([1], _numbers(case["nearest_written"][quantity][:1]), "x", color=colour, ms=5, clip_on=False)


def _numbers(values: Sequence[float | None]) -> list[float]:
    """NaN, which is not drawn, in place of None: an infinite PSNR."""
    return [math.nan if value is None else value for value in values]


def plot_recall(
    images: Tensor, cues: Tensor, recalled: Tensor, path: Path | str | None = None, columns: int = 16
) -> Figure:
    """Plot images (N, C, H, W) above their corrupted copies and the recalled images, in groups of three rows.

    Args:
        images: written images, (N, C, H, W); at most 2 `columns` are shown.
        cues: corrupted copies, (N, C, H, W).
        recalled: pixel probabilities, (N, C, H, W).
        path: file to write, if any.
        columns: images per row.
    """
    rows: list[tuple[str, Tensor]] = []
    for start in range(0, min(len(images), 2 * columns), columns):
        for name, shown in (("written", images), ("cue", cues), ("recalled", recalled)):
            rows.append((name, shown[start : start + columns]))
    return plot_image_table(rows, "Written images, corrupted copies, and the images recalled from the copies", path)
