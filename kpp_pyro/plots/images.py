"""Figures of images: what is read back, what is drawn from a memory."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from kpp_pyro.plots.drawing import plot_image_table


def plot_reconstructions(
    originals: Tensor, reconstructions: Tensor, path: Path | str | None = None, columns: int = 16
) -> Figure:
    """Draw images (N, C, H, W) over their reconstructions (pixel probabilities), in pairs of rows."""
    shown = min(len(originals), 2 * columns)
    rows: list[tuple[str, Tensor]] = []
    for start in range(0, shown, columns):
        rows.append(("original", originals[start : start + columns]))
        rows.append(("reconstruction", reconstructions[start : start + columns]))
    return plot_image_table(rows, "Images of an episode, and what is read back from its memory", path)


def plot_samples(samples: Tensor, path: Path | str | None = None) -> Figure:
    """Draw samples (memories, S, C, H, W), pixel probabilities: a row for each memory."""
    rows = [(f"memory {index + 1}", images) for index, images in enumerate(samples)]
    return plot_image_table(rows, "Samples: keys drawn from the prior, read from a memory", path)
