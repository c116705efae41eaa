"""Figures of generation: samples, key space, interpolation, coverage; episodes from the prior, and their completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from kpp_pyro.distances import distance_in
from kpp_pyro.plots.figures import legend, logarithmic, plot_image_table, plot_mosaic, save

_KINDS = {"prior": ("keys of the prior", "steelblue"), "cleaned_up": ("after iterated clean-up", "darkorange")}


def plot_generation(written: Tensor, drawn: Tensor, cleaned: Tensor, path: Path | str | None = None) -> Figure:
    """Plot written images above samples of their memory, before and after iterated clean-up.

    Args:
        written: images written to each memory, (memories, N, C, H, W).
        drawn: samples of each memory, (memories, N, C, H, W).
        cleaned: the samples after iterated clean-up, (memories, N, C, H, W).
        path: file to write, if any.
    """
    rows = []
    for index, parts in enumerate(zip(written, drawn, cleaned, strict=True)):
        names = (f"written, {index + 1}", f"samples, {index + 1}", f"cleaned, {index + 1}")
        rows += list(zip(names, parts, strict=True))
    return plot_image_table(rows, "Written images, samples of their memory, and samples after iterated clean-up", path)


def plot_key_walk(walks: Mapping[str, Tensor], path: Path | str | None = None, reads: int = 1) -> Figure:
    """Plot the decoded reads of a grid of keys, in a panel for each scale. Columns are x, rows are y.

    Args:
        walks: images (rows, columns, C, H, W) by the title of the panel.
        path: file to write, if any.
        reads: R; only the first read of a key varies over the grid.
    """
    rows, columns = next(iter(walks.values())).shape[:2]
    width = 11 / len(walks)
    figure = Figure((11, width * rows / columns + 0.9), layout="constrained")
    axes = figure.subplots(1, len(walks), squeeze=False)[0]
    for axis, (name, images) in zip(axes, walks.items(), strict=True):
        plot_mosaic(axis, [("", row) for row in images])
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("x of the key, left to right", fontsize=8)
    axes[0].set_ylabel("y of the key, downwards", fontsize=8)
    what = "what each place of the memory holds" if reads == 1 else f"the first of {reads} reads walks, the others stay"
    figure.suptitle(f"A walk through key space: {what}, decoded", fontsize=10)
    return save(figure, path)


def plot_interpolation(pairs: Sequence[tuple[Tensor, Tensor]], path: Path | str | None = None) -> Figure:
    """Plot interpolations between two written images, through keys and through latents.

    Args:
        pairs: for each pair of written images, N images (N, C, H, W) through keys and N through latents.
        path: file to write, if any.
    """
    rows = []
    for through_keys, through_latents in pairs:
        rows += [("keys", through_keys), ("latents", through_latents)]
    return plot_image_table(
        rows, "From one written image to another, through their keys and through their latents", path
    )


def plot_episodes_from_prior(real: Tensor, sampled: Tensor, path: Path | str | None = None) -> Figure:
    """Plot real episodes (E, T, C, H, W), a row for each, above sampled ones (E', T, C, H, W)."""
    rows = [("real", images) for images in real]
    rows += [("", real[0, :0]), *(("sampled", images) for images in sampled)]
    return plot_image_table(rows, "Real episodes, and episodes sampled from the prior of memories", path)


def plot_completion(episodes: Sequence[tuple[Tensor, Tensor]], path: Path | str | None = None) -> Figure:
    """Plot how episodes go on: in a row for each, the given images, a gap, and the sampled images.

    Args:
        episodes: for each row, given images (k, C, H, W) and sampled images (n, C, H, W).
        path: file to write, if any.
    """
    rows = []
    for given, sampled in episodes:
        gap = torch.full_like(given[:1], torch.nan)
        rows.append((f"{len(given)} given", torch.cat([given, gap, sampled])))
    title = "Given images, a gap, and images sampled one after the other"
    return plot_image_table(rows, title, path)


def plot_coverage(content: Mapping[str, Any], path: Path | str | None = None) -> Figure:
    """Plot the share of written images near a sample against the number of samples, and histograms of distances.

    Args:
        content: content of `generate.json`.
        path: file to write, if any.
    """
    distance = distance_in(content)
    figure = Figure((11, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for kind, (name, colour) in _KINDS.items():
        result = content["results"][kind]
        curve = result["coverage_by_samples"]
        left.plot(range(1, len(curve) + 1), [100 * share for share in curve], label=name, color=colour)
        for axis, of in ((middle, "written"), (right, "training")):
            counts = result[f"samples_by_{distance.name}_to_nearest_{of}"]
            edges = [(place - 0.5) * distance.bin for place in range(len(counts) + 1)]
            axis.stairs(counts, edges, label=name, color=colour)
    left.set(xlabel="samples", ylabel="% of written recovered", ylim=(0, 103), title="Coverage")
    logarithmic(left, "x", (1, len(curve)))
    for axis, of in ((middle, "written"), (right, "training")):
        axis.axvline(content[f"near_{distance.name}"], color="firebrick", ls=":", label="near")
        axis.set_xlim(left=-distance.bin)  # no distance is negative; bars stand around their distance
        axis.set(
            xlabel=f"{distance.words} to the nearest {of} image", ylabel="samples", title=f"Distance to {of} images"
        )
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
        legend(axis)
    return save(figure, path)
