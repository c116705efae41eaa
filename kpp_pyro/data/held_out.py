"""Episodes: sets of T images that are written to one memory.

`EpisodeSampler` draws them at random without end, to train on; `EpisodeSet` deals every image out exactly
once, to score. Both keep the images as one uint8 tensor on its device and index and binarize them there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from kpp_pyro.data.images import LabelledImages
from kpp_pyro.data.sampler import (
    prepare,
    require_episode,
    require_positive,
)
from kpp_pyro.likelihoods.bernoulli import Binarization, binarize


class EpisodeSet:
    """Evaluation episodes that hold every image exactly once, in an order that depends on `seed` alone.

    A last, short episode is filled up from the images that were dealt first; the filling does not count.
    classes_per_episode: the shuffled classes are grouped by that many (the last group may have fewer), each
        group's images are cut into episodes, and the episodes of all groups are shuffled. A short episode is
        filled up from its own group; where that holds fewer than T images, with images of other classes. No image
        stands in an episode twice: one that is left out of a memory must not be in it all the same.
    max_episodes: keep only the first ones, for a quick look.
    Raises InputError, naming the flag, for an episode that these images cannot fill.
    """

    def __init__(
        self,
        images: LabelledImages,
        episode_length: int,
        binarization: Binarization = "static",
        seed: int = 0,
        classes_per_episode: int | None = None,
        max_episodes: int | None = None,
    ) -> None:
        """Check the request, prepare the images and deal them out."""
        classes = images.dense_classes().cpu()  # (N,)
        require_episode(classes, episode_length, classes_per_episode)
        if max_episodes is not None:
            require_positive("max_episodes", max_episodes)
        self.episode_length = episode_length
        self.image_shape = images.image_shape
        self._images, self._how = prepare(images.images, binarization)
        self._seed = seed
        index, counted = _deal(classes, episode_length, classes_per_episode, seed)
        self._index = index[:max_episodes].to(images.images.device)  # (E, T)
        self._counted = counted[:max_episodes].to(images.images.device)  # (E, T)

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._index)

    @property
    def num_images(self) -> int:
        """Return the number of images that count."""
        return int(self._counted.sum())

    def first(self) -> Tensor:
        """Return the images of the first episode: float32 (T, C, H, W) in {0, 1}."""
        return next(self.batches(1))[0][0]

    def batches(self, num_episodes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the episodes once, B = `num_episodes` at a time (the last batch may be smaller).

        Yields episodes float32 (B, T, C, H, W) in {0, 1} and counted bool (B, T), False for filling.
        Every pass yields the same bits, whatever B and the device, dynamic binarization included.
        """
        require_positive("num_episodes", num_episodes)
        generator = torch.Generator().manual_seed(self._seed)
        parts = zip(self._index.split(num_episodes), self._counted.split(num_episodes), strict=True)
        return ((binarize(_grey(self._images, i), self._how, generator), counted) for i, counted in parts)


def first_images(batches: Iterable[tuple[Tensor, Tensor]], limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of an `EpisodeSet` as long as their images are among the first `limit`; later ones do not count.

    At least two episodes of a batch are kept, where it has them, so that each has another one beside it.
    """
    left = limit
    for episode, counted in batches:
        rank = counted.flatten().cumsum(0).view_as(counted)
        counted = counted & (rank <= left)
        left -= int(counted.sum())
        wanted = max(2, int(counted.any(1).sum()))
        yield episode[:wanted], counted[:wanted]
        if left == 0:
            return


def _deal(classes: Tensor, episode_length: int, classes_per_episode: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Return indices and counted, both (E, T): every image once, and filling that does not count."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(classes), generator=generator)  # (N,)
    if classes_per_episode is None:
        return _cut(order, episode_length)
    rank = torch.randperm(int(classes.max()) + 1, generator=generator)  # (classes,), places when shuffled
    group = rank[classes[order]] // classes_per_episode  # (N,)
    members = order[group.argsort(stable=True)].split(group.bincount().tolist())
    episodes = [_cut(own, episode_length, order[group != number]) for number, own in enumerate(members)]
    index, counted = (torch.cat(part) for part in zip(*episodes, strict=True))
    shuffle = torch.randperm(len(index), generator=generator)  # or the first episodes would be all one group
    return index[shuffle], counted[shuffle]


def _cut(order: Tensor, episode_length: int, others: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cut M image indices into episodes (E, T), filled up from the start again, or with others where M < T."""
    place = torch.arange(math.ceil(len(order) / episode_length) * episode_length).view(-1, episode_length)
    filling = order if others is None or len(order) >= episode_length else others
    return torch.cat([order, filling])[: place.numel()].view_as(place), place < len(order)


def _grey(images: Tensor, index: Tensor) -> Tensor:
    """Return intensities in [0, 1], float32 (B, T, C, H, W), of the images at index (B, T)."""
    return images[index].float() / 255
