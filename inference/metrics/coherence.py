"""How alike the images of an episode are, beside images of different episodes: whether an episode hangs together.

Distances are those of `kpp_pyro.distances`: wrong pixels of binary images, squared errors of grey levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.importance.estimator import standard_error
from inference.metrics.generation import nearest
from kpp_pyro.distances import Distance


@torch.no_grad()
def episode_distances(images: Tensor, distance: Distance) -> tuple[Tensor, Tensor]:
    """Distances of the images of each episode from those of each, (E, E); on the diagonal, within an episode.

    An image is not compared with itself, nor with the image at the same place of another episode, so that it has T - 1
    others everywhere. With T = 1 there are none, and nothing is finite.

    Args:
        images: E episodes, (E, T, C, H, W).
        distance: between two images.

    Returns:
        The mean over all others, and the mean distance to the nearest of the others.
    """
    episodes, count = images.shape[:2]
    flat = images.flatten(0, 1)
    each = torch.stack([distance.between(image, flat).double() for image in flat])  # (E T, E T)
    pairs = each.view(episodes, count, episodes, count).transpose(1, 2)  # (E, E, T, T)
    other = ~torch.eye(count, dtype=torch.bool, device=pairs.device)
    mean = torch.where(other, pairs, 0.0).sum((-2, -1)) / other.sum()
    return mean, torch.where(other, pairs, torch.inf).amin(-1).mean(-1)


def summarize_coherence(images: Tensor, training: Tensor, distance: Distance) -> dict[str, float]:
    """Mean distances within and between episodes, their ratio, and the distance to the nearest training image.

    A ratio is 1 for images that have nothing to do with each other, and 0 for copies of one image. Nearest images tell
    more than means where an episode is of several classes. Standard errors are over episodes: by the jackknife, since
    each episode takes part in many of the pairs, and rather too large than too small (Efron & Stein 1981). What is not
    known, such as the distance between episodes of a single one, is not finite.

    Args:
        images: E episodes, (E, T, C, H, W).
        training: all training images.
        distance: between two images.
    """
    summary = {}
    for what, distances in zip(("", "nearest_"), episode_distances(images, distance), strict=True):
        names = [f"{what}{distance.name}_{of}_episodes" for of in ("within", "between")]
        found = zip(_statistics(distances), _jackknife_errors(distances), strict=True)
        for name, (value, error) in zip([*names, f"{what}within_to_between_ratio"], found, strict=True):
            summary[name], summary[f"{name}_standard_error"] = value.item(), error.item()
    to_training = nearest(images.flatten(0, 1), training, distance).distance.view(images.shape[:2]).double().mean(1)
    name = f"{distance.name}_to_nearest_training"
    return {**summary, name: to_training.mean().item(), f"{name}_standard_error": standard_error(to_training)}


def _statistics(distances: Tensor) -> Tensor:
    """Mean within episodes, mean between them, and their ratio, (3,), of distances (E, E)."""
    within = distances.diagonal().mean()
    between = distances[~torch.eye(len(distances), dtype=torch.bool, device=distances.device)].mean()
    return torch.stack([within, between, within / between])


def _jackknife_errors(distances: Tensor) -> Tensor:
    """Standard errors of `_statistics`, (3,), from those without one of the E episodes."""
    number = len(distances)
    places = torch.arange(number, device=distances.device)
    without = [distances[places != place][:, places != place] for place in places]
    found = torch.stack([_statistics(others) for others in without])
    return ((number - 1) * (found - found.mean(0)).square().mean(0)).sqrt()
