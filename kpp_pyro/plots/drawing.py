"""What all figures share: colours, strips of images, saving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from kpp_pyro.files.atomic import writing

_DPI = 130
_SIDE = 0.62  # of an image of a table, in inches
INK = matplotlib.colormaps["gray"].with_extremes(bad="slategray")  # images, and the ground between them
IMAGE_COLOURS = matplotlib.colormaps["turbo"]  # one for each image of an episode


def plot_image_table(
    rows: Sequence[tuple[str, Tensor]],
    title: str,
    path: Path | str | None = None,
    columns: Sequence[str] = (),
) -> Figure:
    """Draw rows of images (N, C, H, W), each with its label, under titles of the columns if there are any.

    Args:
        rows: labels and images; a row may be shorter than others.
        title: of the figure.
        path: file to write, if any.
        columns: their titles.
    """
    width = max(len(images) for _, images in rows)
    size = (max(5.0, _SIDE * width + 1.4), _SIDE * len(rows) + (0.75 if columns else 0.45))
    figure = Figure(size, layout="constrained")
    plot_mosaic(figure.subplots(), rows, columns)
    figure.suptitle(title, fontsize=10)
    return save(figure, path)


def plot_mosaic(axis: Any, rows: Sequence[tuple[str, Tensor]], columns: Sequence[str] = ()) -> None:
    """Draw rows of images (N, C, H, W) into one axis, with a ground between them that shows as such."""
    first = rows[0][1].detach().cpu()
    height, width = (side + 2 for side in first.shape[-2:])
    across = max(len(images) for _, images in rows)
    framed = first.new_full((len(rows), across, height, width), float("nan"))
    for row, (_, images) in enumerate(rows):
        framed[row, : len(images), 1:-1, 1:-1] = images.detach().cpu()[:, 0]
    axis.imshow(framed.movedim(1, 2).flatten(2).flatten(0, 1).numpy(), cmap=INK, vmin=0, vmax=1)
    axis.set_yticks([height * (row + 0.5) for row in range(len(rows))], [label for label, _ in rows], fontsize=9)
    axis.set_xticks([width * (column + 0.5) for column in range(len(columns))], columns, fontsize=9)
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)


def logarithmic(axis: Any) -> None:
    """Make the y axis logarithmic, with plain numbers on it."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(ScalarFormatter())


def save(figure: Figure, path: Path | str | None) -> Figure:
    """Write a figure to its file, if it is to have one, and return it. Raises InputError where it cannot be written."""
    if path is not None:
        with writing(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=_DPI)
    return figure
