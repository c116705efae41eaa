"""Figures of reconstructions and samples."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from kpp_pyro.plots.figures import plot_image_table


def plot_reconstructions(
    originals: Tensor, reconstructions: Tensor, path: Path | str | None = None, columns: int = 16
) -> Figure:
    """Plot images above their reconstructions, in pairs of rows.

    Args:
        originals: (N, C, H, W); at most 2 `columns` are shown.
        reconstructions: pixel probabilities, (N, C, H, W).
        path: file to write, if any.
        columns: images per row.
    """
    shown = min(len(originals), 2 * columns)
    rows: list[tuple[str, Tensor]] = []
    for start in range(0, shown, columns):
        rows.append(("original", originals[start : start + columns]))
        rows.append(("reconstruction", reconstructions[start : start + columns]))
    return plot_image_table(rows, "Images of an episode, and their reconstructions", path)


def plot_samples(samples: Tensor, path: Path | str | None = None) -> Figure:
    """Plot samples, pixel probabilities (memories, S, C, H, W), in a row for each memory."""
    rows = [(f"memory {index + 1}", images) for index, images in enumerate(samples)]
    return plot_image_table(rows, "Samples: keys drawn from the prior, read from a memory", path)
