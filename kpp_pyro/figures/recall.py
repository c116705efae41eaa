"""Figures of recall: damaged cues, read by read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from kpp_pyro.figures.drawing import draw_image_table, save

_STRENGTHS = matplotlib.colormaps["viridis"]


def draw_denoising(
    noise: str, cases: Mapping[float, Tensor], titles: Sequence[str], path: Path | str | None = None
) -> Figure:
    """Draw damaged images read by read, a row for each image.

    Args:
        noise: its name.
        cases: by strength, images (N, columns, C, H, W): each from clean to the last read.
        titles: of the columns.
        path: file to write, if any.
    """
    rows = [
        (f"{strength:g}" if first == 0 else "", images)
        for strength, many in cases.items()
        for first, images in enumerate(many)
    ]
    return draw_image_table(
        rows, f"Recalled from cues with noise: {noise.replace('_', ' ')}, by strength", path, titles
    )


def draw_denoising_curves(results: Sequence[Mapping[str, Any]], path: Path | str | None = None) -> Figure:
    """Draw wrong pixels against reads, a panel for each noise and a line for each strength, with standard errors.

    Args:
        results: as `denoise.json` has them.
        path: file to write, if any.
    """
    noises = list(dict.fromkeys(result["noise"] for result in results))
    figure = Figure((1.0 + 2.8 * len(noises), 3.8), layout="constrained")
    axes = figure.subplots(1, len(noises), squeeze=False, sharey=True)[0]
    for axis, noise in zip(axes, noises, strict=True):
        cases = [result for result in results if result["noise"] == noise]
        for index, case in enumerate(cases):
            _draw_case(axis, case, _STRENGTHS(0.85 * index / max(1, len(cases) - 1)))
        axis.set(title=noise.replace("_", " "), xlabel="reads (0: the cue)", yscale="symlog", ylim=(0, None))
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.grid(alpha=0.3)
        axis.legend(
            fontsize=7, title="strength", title_fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=5
        )
    axes[0].set_ylabel("wrong pixels per image")
    figure.suptitle(
        "Solid: read from memory. Dashed: the same networks without it. Dotted: the hole is known", fontsize=9
    )
    return save(figure, path)


def _draw_case(axis: Any, case: Mapping[str, Any], colour: Any) -> None:
    cue = case["cue_wrong_pixels_per_image"]
    for kind, style in (("recall", "-"), ("memoryless", "--"), ("completion", ":")):
        errors = case[kind]
        if errors is None:
            continue
        wrong = [cue, *errors["wrong_pixels_per_image"]]
        spread = [0.0, *(error or 0.0 for error in errors["wrong_pixels_per_image_standard_error"])]
        label = f"{case['strength']:g}" if kind == "recall" else None
        axis.errorbar(range(len(wrong)), wrong, spread, ls=style, marker=".", color=colour, label=label, lw=1.2)
