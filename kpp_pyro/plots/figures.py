"""Functions that all figures use: tables of images, logarithmic axes, saving, and colours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from kpp_pyro.files.atomic import atomic_write, make_folder

_DPI = 130
_SIDE = 0.62  # of an image in a table, in inches
_BACKGROUND = torch.tensor(to_rgb("slategray"))  # between images
IMAGE_COLOURS = matplotlib.colormaps["turbo"]  # one for each image of an episode


def plot_image_table(
    rows: Sequence[tuple[str, Tensor]],
    title: str,
    path: Path | str | None = None,
    columns: Sequence[str] = (),
) -> Figure:
    """Plot a table of images, with labels of the rows and optional titles of the columns.

    Args:
        rows: labels and images (N, C, H, W); N may differ from row to row.
        title: of the figure.
        path: file to write, if any.
        columns: titles of the columns.
    """
    width = max(len(images) for _, images in rows)
    size = (max(5.0, _SIDE * width + 1.4), _SIDE * len(rows) + (0.75 if columns else 0.45))
    figure = Figure(size, layout="constrained")
    plot_mosaic(figure.subplots(), rows, columns)
    figure.suptitle(title, fontsize=10)
    return save(figure, path)


def plot_mosaic(axis: Any, rows: Sequence[tuple[str, Tensor]], columns: Sequence[str] = ()) -> None:
    """Plot a table of images into an axis, with a grey background between the images. Arguments: `plot_image_table`."""
    first = rows[0][1].detach().cpu()
    height, width = (side + 2 for side in first.shape[-2:])
    across = max(len(images) for _, images in rows)
    framed = torch.full((len(rows), across, 3, height, width), float("nan"))
    for row, (_, images) in enumerate(rows):
        framed[row, : len(images), :, 1:-1, 1:-1] = images.detach().float().cpu().clamp(0, 1)  # one channel, or three
    mosaic = framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (height, width, 3)
    axis.imshow(torch.where(mosaic.isnan(), _BACKGROUND, mosaic).numpy())
    axis.set_yticks([height * (row + 0.5) for row in range(len(rows))], [label for label, _ in rows], fontsize=9)
    axis.set_xticks([width * (column + 0.5) for column in range(len(columns))], columns, fontsize=9)
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)


def logarithmic(axis: Any) -> None:
    """Make the y axis logarithmic, with plain numbers on it."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(ScalarFormatter())


def plain(text: str) -> str:
    """A user's text, such as the name of a run, which Matplotlib would read as a formula between two $."""
    return text.replace("$", r"\$")


def save(figure: Figure, path: Path | str | None) -> Figure:
    """Write a figure to a file if `path` is given, and return the figure.

    Raises:
        OutputError: the file cannot be written.
    """
    if path is not None:
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=_DPI, format=Path(path).suffix.removeprefix(".") or "png")
        make_folder(Path(path).parent)
        atomic_write(path, buffer.getbuffer())
    return figure
