"""Coverage and novelty of the images that a memory generates through keys of the prior.

Distances are those of `kpp_pyro.distances`: wrong pixels of binary images, squared errors of grey levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.importance.estimator import standard_error
from kpp_pyro.distances import Distance

_AT_ONCE = 2048  # images whose distances are computed at once; bounds the memory in use


@dataclass(frozen=True)
class Nearest:
    """For each of N images, the nearest of M images.

    Attributes:
        distance: from the nearest image, (N,).
        index: index of the nearest image, 0 to M - 1, (N,).
    """

    distance: Tensor
    index: Tensor


@dataclass(frozen=True)
class Generation:
    """Distances of N samples from one memory of T written images.

    Attributes:
        written: the nearest written image of each sample.
        other_episode: the nearest image of another episode, which was not written: a control for chance.
        training: the nearest training image.
        near: distance up to which a sample counts as near an image.
        images: T.
        other_episode_images: number of images of the other episode.
    """

    written: Nearest
    other_episode: Nearest
    training: Nearest
    near: float
    images: int
    other_episode_images: int


@torch.no_grad()
def nearest(images: Tensor, others: Tensor, distance: Distance) -> Nearest:
    """For each of images (N, C, H, W), the nearest of others (M, C, H, W), of any type that `Distance.compared` takes.

    The first of those that are equally near is taken. For grey levels, images whose squared errors differ by less than
    about 1e-7 count as equally near.
    """
    own = distance.compared(images).flatten(1).float()
    least = torch.full((len(own),), torch.inf, device=own.device)
    index = torch.zeros(len(own), dtype=torch.int64, device=own.device)
    for start in range(0, len(others), _AT_ONCE):
        other = distance.compared(others[start : start + _AT_ONCE]).flatten(1)
        squares = other.square().sum(1) - 2 * own @ other.float().mT  # (N, m), without the squares of `own`
        found = squares.min(1)
        index = torch.where(found.values < least, found.indices + start, index)
        least = torch.minimum(found.values, least)
    return Nearest(distance.between(images, others[index]).float(), index)


def near_distance(written_to_training: Nearest) -> float:
    """Largest near distance: half the mean distance of written images to their nearest training image."""
    return written_to_training.distance.mean().item() / 2


def measure(
    samples: Tensor, written: Tensor, other_episode: Tensor, training: Tensor, near: float, distance: Distance
) -> Generation:
    """Distances of samples (N, C, H, W) to written images, to those of another episode, and to training images."""
    return Generation(
        nearest(samples, written, distance),
        nearest(samples, other_episode, distance),
        nearest(samples, training, distance),
        near,
        len(written),
        len(other_episode),
    )


def covered(found: Nearest, images: int, near: float) -> Tensor:
    """Coverage by the first n samples, for n = 1 .. N, (N,).

    An image is covered if it is some sample's nearest image, at a distance <= near.

    Args:
        found: the nearest image of each of the N samples.
        images: number of images.
        near: largest distance that counts as near.
    """
    first = torch.full((images,), len(found.index), dtype=torch.int64)  # first sample that covers each image
    hits = (found.distance <= near).cpu()
    order = torch.arange(len(hits))[hits]
    first.scatter_reduce_(0, found.index.cpu()[hits], order, "amin")
    return torch.bincount(first, minlength=len(hits) + 1)[:-1].cumsum(0).double() / images


def summarize_generation(memories: Sequence[Generation], distance: Distance) -> dict[str, Any]:
    """Means and standard errors over memories; shares are of images (coverage) or of samples (novelty)."""
    curves = torch.stack([covered(found.written, found.images, found.near) for found in memories])  # (memories, N)
    chance = [covered(found.other_episode, found.other_episode_images, found.near)[-1] for found in memories]
    shares = {
        "coverage_share": curves[:, -1],
        "coverage_of_other_episode_share": torch.stack(chance),
        "novel_share": _over(memories, lambda found: (found.written.distance > found.near).double()),
        "novel_and_far_from_training_share": _over(memories, _far_from_all),
        f"{distance.name}_to_nearest_written": _over(memories, lambda found: found.written.distance.double()),
        f"{distance.name}_to_nearest_training": _over(memories, lambda found: found.training.distance.double()),
    }
    summary: dict[str, Any] = {}
    for name, values in shares.items():
        summary[name] = values.mean().item()
        summary[f"{name}_standard_error"] = standard_error(values)
    return {
        **summary,
        "coverage_by_samples": curves.mean(0).tolist(),
        f"samples_by_{distance.name}_to_nearest_written": _counts(memories, lambda found: found.written, distance),
        f"samples_by_{distance.name}_to_nearest_training": _counts(memories, lambda found: found.training, distance),
    }


def _far_from_all(found: Generation) -> Tensor:
    return ((found.written.distance > found.near) & (found.training.distance > found.near)).double()


def _over(memories: Sequence[Generation], value: Callable[[Generation], Tensor]) -> Tensor:
    """Mean over the samples of each memory, (memories,)."""
    return torch.stack([value(found).mean().cpu() for found in memories])


def _counts(memories: Sequence[Generation], of: Callable[[Generation], Nearest], distance: Distance) -> list[int]:
    """Number of samples at distances of about 0, 1, 2, ... bins from their nearest image, rounded."""
    distances = torch.cat([of(found).distance.cpu().double() for found in memories])
    return torch.bincount((distances / distance.bin).round().long()).tolist()
