"""What comes out of a memory through keys of the prior: how much of what was written, how much that is new.

All distances are numbers of pixels that differ between two images cut at 1/2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.importance.estimator import standard_error

_AT_ONCE = 8192  # images that distances are taken to at a time


@dataclass(frozen=True)
class Nearest:
    """The nearest of M images to each of N.

    Attributes:
        distance: wrong pixels, (N,).
        index: which of the M, (N,).
    """

    distance: Tensor
    index: Tensor


@dataclass(frozen=True)
class Generation:
    """N images generated from one memory of T written images.

    Attributes:
        written: the written image nearest to each, distances (N,).
        strangers: the same for the images of another episode, which the memory has not seen: what chance does.
        training: the same for the training images.
        near: distance up to which an image is near another.
        images: T.
        stranger_images: how many strangers there are.
    """

    written: Nearest
    strangers: Nearest
    training: Nearest
    near: float
    images: int
    stranger_images: int


@torch.no_grad()
def nearest(images: Tensor, others: Tensor) -> Nearest:
    """The nearest of others (M, C, H, W) to each of images (N, C, H, W)."""
    ink = (images > 0.5).flatten(1).float()
    distance = torch.full((len(ink),), torch.inf, device=ink.device)
    index = torch.zeros(len(ink), dtype=torch.int64, device=ink.device)
    for start in range(0, len(others), _AT_ONCE):
        other = (others[start : start + _AT_ONCE] > 0.5).flatten(1).float()
        apart = ink.sum(1, keepdim=True) + other.sum(1) - 2 * ink @ other.mT  # (N, m)
        least = apart.min(1)
        index = torch.where(least.values < distance, least.indices + start, index)
        distance = torch.minimum(least.values, distance)
    return Nearest(distance, index)


def near_distance(written_to_training: Nearest) -> float:
    """Half the mean distance of written images to their nearest training image: nearer than that is the same image."""
    return written_to_training.distance.mean().item() / 2


def measure(samples: Tensor, written: Tensor, strangers: Tensor, training: Tensor, near: float) -> Generation:
    """Measure samples (N, C, H, W) of a memory against what it holds, what it does not, and what trained it."""
    return Generation(
        nearest(samples, written),
        nearest(samples, strangers),
        nearest(samples, training),
        near,
        len(written),
        len(strangers),
    )


def covered(found: Nearest, images: int, near: float) -> Tensor:
    """Share of the images that the first n samples bring back, for every n, (N,): each is the nearest, and near."""
    first = torch.full((images,), len(found.index), dtype=torch.int64)  # sample that first brings back each image
    hits = (found.distance <= near).cpu()
    order = torch.arange(len(hits))[hits]
    first.scatter_reduce_(0, found.index.cpu()[hits], order, "amin")
    return torch.bincount(first, minlength=len(hits) + 1)[:-1].cumsum(0).double() / images


def summarize_generation(memories: Sequence[Generation]) -> dict[str, Any]:
    """Means over memories, with standard errors over them."""
    curves = torch.stack([covered(found.written, found.images, found.near) for found in memories])  # (memories, N)
    chance = [covered(found.strangers, found.stranger_images, found.near)[-1] for found in memories]
    shares = {
        "coverage_share": curves[:, -1],
        "coverage_of_strangers_share": torch.stack(chance),
        "novel_share": _over(memories, lambda found: (found.written.distance > found.near).double()),
        "novel_and_far_from_training_share": _over(memories, _far_from_all),
        "wrong_pixels_to_nearest_written": _over(memories, lambda found: found.written.distance.double()),
        "wrong_pixels_to_nearest_training": _over(memories, lambda found: found.training.distance.double()),
    }
    summary: dict[str, Any] = {}
    for name, values in shares.items():
        summary[name] = values.mean().item()
        summary[f"{name}_standard_error"] = standard_error(values)
    return {
        **summary,
        "coverage_by_samples": curves.mean(0).tolist(),
        "samples_by_wrong_pixels_to_nearest_written": _counts(memories, lambda found: found.written),
        "samples_by_wrong_pixels_to_nearest_training": _counts(memories, lambda found: found.training),
    }


def _far_from_all(found: Generation) -> Tensor:
    return ((found.written.distance > found.near) & (found.training.distance > found.near)).double()


def _over(memories: Sequence[Generation], value: Callable[[Generation], Tensor]) -> Tensor:
    """Mean over the samples of each memory, (memories,)."""
    return torch.stack([value(found).mean().cpu() for found in memories])


def _counts(memories: Sequence[Generation], of: Callable[[Generation], Nearest]) -> list[int]:
    """Number of samples at 0, 1, 2, ... wrong pixels."""
    return torch.bincount(torch.cat([of(found).distance.cpu().long() for found in memories])).tolist()
