"""Functions that all figures use: tables of images, scales of axes, legends, saving, and colours."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import torch
from cycler import cycler
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation
from torch import Tensor

from kpp_pyro.files.atomic import atomic_write, make_folder

_DPI = 130
_SIDE = 0.62  # of an image in a table, in inches
_WIDE_RATIO = 5.0  # of the largest to the smallest number, above which an axis is logarithmic
_LABELS, _NO_LABELS = 0.5, 0.08  # height of the numbers and the label below a panel, in inches; without them
_BACKGROUND = torch.tensor(to_rgb("slategray"))  # between images
LINES = cycler(  # colours that colour-blind readers can tell apart (Okabe & Ito 2008), each with a marker of its own
    color=("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"),
    marker=("o", "s", "^", "D", "v", "P", "X"),
)
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
    size = (max(5.0, _SIDE * width + 1.4), _SIDE * len(rows) + (0.9 if columns else 0.45))
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
    titles = [column.replace(" ", "\n") for column in columns]  # a column is narrow
    axis.set_xticks([width * (column + 0.5) for column in range(len(columns))], titles, fontsize=9)
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)


def set_scale(panel: Any, axis: Literal["x", "y"], values: Iterable[float | None]) -> None:
    """Make an axis logarithmic if its values are positive and their ratios large; otherwise linear.

    A linear axis does not go below 0 if no value does: a cost is not negative. Call it after everything is plotted.

    Args:
        panel: Matplotlib's axes.
        axis: which of the two.
        values: all that are plotted; None and NaN are unknown.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    smallest = min(known, default=0.0)
    if smallest > 0 and max(known) / smallest > _WIDE_RATIO:
        logarithmic(panel, axis, known)
    elif smallest >= 0:
        low, high = getattr(panel, f"get_{axis}lim")()
        getattr(panel, f"set_{axis}lim")(max(0.0, low), high)


def logarithmic(panel: Any, axis: Literal["x", "y"], values: Collection[float], base: int = 10) -> None:
    """Make an axis logarithmic, with plain numbers that leave each other room.

    Args:
        panel: Matplotlib's axes.
        axis: which of the two.
        values: all that are plotted; only the positive ones are shown.
        base: numbers stand at its powers; of 10, with few decades, also between them.
    """
    getattr(panel, f"set_{axis}scale")("log", base=base)
    ticks = getattr(panel, f"{axis}axis")
    shown = [value for value in values if value > 0] or [1.0]
    ratio = max(shown) / min(shown)
    between = (1.0,) if base != 10 or ratio > 100 else (1.0, 3.0) if ratio > 25 else (1.0, 2.0, 5.0)
    ticks.set_major_locator(LogLocator(base, between) if ratio > _WIDE_RATIO else MaxNLocator(5))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    ticks.set_minor_formatter(NullFormatter())


def legend(panel: Any, columns: int = 1, title: str | None = None) -> None:
    """Add a legend below a panel and its label, where it covers no data.

    Args:
        panel: Matplotlib's axes.
        columns: of the legend.
        title: of the legend, if any.
    """
    below = -(_LABELS if panel.get_xlabel() else _NO_LABELS)
    moved = panel.transAxes + ScaledTranslation(0, below, panel.figure.dpi_scale_trans)
    style = {"fontsize": 8, "title_fontsize": 8, "ncols": columns, "title": title, "borderaxespad": 0}
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=moved, **style)


def plain(text: str) -> str:
    """A user's text, such as the name of a run, for Matplotlib.

    Between two $ it would be read as a formula, and characters that are no Unicode cannot be drawn.
    """
    return text.replace("$", r"\$").encode(errors="replace").decode()


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
