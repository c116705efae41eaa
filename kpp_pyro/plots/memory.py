"""Figures of memories and of the boxes that keys read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from kpp_pyro.plots.figures import IMAGE_COLOURS, plot_mosaic, save

_EPISODE_COLUMNS, _MOST_SHOWN = 8, 64


def plot_memory(
    memory: Tensor, boxes: Tensor | None = None, path: Path | str | None = None, most_channels: int = 8
) -> Figure:
    """Plot the channels of one memory, with the boxes that its keys read in one colour per image of the episode.

    Args:
        memory: (C_m, H_m, W_m).
        boxes: (left, top, width, height) in memory pixels, (T, R, 4); None if keys are not places in the memory.
        path: file to write, if any.
        most_channels: largest number of channels to plot.
    """
    channels = min(memory.shape[0], most_channels)
    columns = min(channels, 2 if memory.shape[2] > 1.5 * memory.shape[1] else 4)
    rows = -(-channels // columns)
    panel_width = {1: 6.0, 2: 4.2}.get(columns, 2.6)
    panel_height = panel_width * memory.shape[1] / memory.shape[2]
    size = (1.1 * columns * panel_width, rows * (panel_height + 0.25) + 0.3)  # the colour bar takes a tenth
    figure = Figure(size, layout="constrained")  # not by pyplot, which keeps all figures and may need a display
    axes = figure.subplots(rows, columns, squeeze=False)
    for channel, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if channel >= channels:
            continue
        image = _plot_channel(axis, memory, channel, boxes)
        axis.set_title(f"channel {channel + 1} of {memory.shape[0]}", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8, label="value")
    remark = "" if boxes is None else ", with the block that each image's key reads"
    figure.suptitle(f"Memory of an episode{remark}", fontsize=10)
    return save(figure, path)


def plot_memory_at_work(
    episode: Tensor,
    memory: Tensor,
    boxes: Tensor | None,
    cues: Tensor,
    recalled: Tensor,
    samples: Tensor,
    path: Path | str | None = None,
) -> Figure:
    """Plot an episode, its memory with the boxes of its keys, corrupted cues with their recall, and samples.

    Args:
        episode: images (T, C, H, W); at most 64 are shown.
        memory: (C_m, H_m, W_m); one channel is plotted.
        boxes: (left, top, width, height) in memory pixels (`Addressing.boxes`), (T, R, 4); None if keys are not places.
        cues: (N, C, H, W).
        recalled: pixel probabilities, (N, C, H, W).
        samples: pixel probabilities, (S, C, H, W).
        path: file to write, if any.
    """
    shown = episode[:_MOST_SHOWN]
    lines = -(-len(shown) // _EPISODE_COLUMNS), 2 * _EPISODE_COLUMNS / len(cues)  # of images, above and below
    figure = Figure((11, 0.68 * sum(lines) + 0.9), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2, height_ratios=lines)
    plot_mosaic(first, [("", row) for row in shown.split(_EPISODE_COLUMNS)])
    first.set_title(f"1. An episode of {len(episode)} images is written ...", fontsize=10)
    _plot_channel(second, memory, 0, boxes)
    second.set_axis_off()
    remark = "" if boxes is None else f" (channel 1 of {len(memory)}) with a block for each key"
    second.set_title(f"2. ... into one memory{remark}", fontsize=10)
    plot_mosaic(third, [("cue", cues), ("recalled", recalled)])
    third.set_title("3. Corrupted copies are cues, and recall this", fontsize=10)
    plot_mosaic(fourth, [("", row) for row in samples.split(len(cues))])
    fourth.set_title("4. Random keys read this", fontsize=10)
    return save(figure, path)


def _plot_channel(axis: Any, memory: Tensor, channel: int, boxes: Tensor | None) -> Any:
    """Plot a channel of a memory, with the colour scale of all channels, and boxes. Returns Matplotlib's image."""
    limit = float(memory.abs().max()) or 1.0
    extent = (0, memory.shape[2], memory.shape[1], 0)
    values = memory[channel].detach().cpu().numpy()
    image = axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent)
    if boxes is not None:
        _plot_boxes(axis, boxes)
    return image


def _plot_boxes(axis: Any, boxes: Tensor) -> None:
    """Plot boxes (T, R, 4) as frames, one colour per image."""
    images = boxes.shape[0]
    inset = 0.12  # so that frames of neighbouring blocks do not overlap
    for index, box in enumerate(boxes.detach().cpu()):
        for left, top, width, height in box.tolist():
            colour = IMAGE_COLOURS(index / max(1, images - 1))
            corner = (left + inset, top + inset)
            frame = Rectangle(corner, width - 2 * inset, height - 2 * inset, fill=False, edgecolor=colour, lw=1.1)
            axis.add_patch(frame)
