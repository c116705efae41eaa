"""Episodes of held-out images: a fixed partition of the images into sets of T, each written to one memory.

Training episodes are in `sampler.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from kpp_pyro.data.images import LabelledImages
from kpp_pyro.data.sampler import OptionalBinarization, pixels_of, prepare, require_episode, require_positive


class EpisodeSet:
    """Episodes of T distinct images in which every image counts exactly once; their order depends on `seed` alone.

    A short last episode is padded with the images of the first episodes; padding does not count.

    With `classes_per_episode`, the shuffled classes are divided into groups of that many classes (the last group may
    have fewer). The images of each group are cut into episodes, and the episodes of all groups are shuffled. A short
    episode is padded with images of its own group, or with images of other classes if the group has fewer than T
    images. No image is in an episode twice, since a left-out image must not be in the memory.

    Args:
        images: the images; they and the episodes stay on their device.
        episode_length: T.
        binarization: of the pixels, or "none" for intensities k / 255.
        seed: of the order, and of the pixels with binarization "dynamic".
        classes_per_episode: number of classes of each episode; classes are ignored if None.
        max_episodes: keep only the first ones.

    Raises:
        InputError: too few images or classes for an episode. The message names the flag.
    """

    def __init__(
        self,
        images: LabelledImages,
        episode_length: int,
        binarization: OptionalBinarization = "static",
        seed: int = 0,
        classes_per_episode: int | None = None,
        max_episodes: int | None = None,
    ) -> None:
        classes = images.dense_classes().cpu()  # (N,)
        require_episode(classes, episode_length, classes_per_episode, images.origin)
        if max_episodes is not None:
            require_positive("max_episodes", max_episodes)
        self.episode_length = episode_length
        self.image_shape = images.image_shape
        self._images, self._how = prepare(images.images, binarization)
        self._seed = seed
        index, counted = _partition(classes, episode_length, classes_per_episode, seed)
        self._index = index[:max_episodes].to(images.images.device)  # (E, T)
        self._counted = counted[:max_episodes].to(images.images.device)  # (E, T)
        self._classes = classes[index[:max_episodes]]  # (E, T)

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._index)

    @property
    def num_images(self) -> int:
        """Number of images that count, without padding."""
        return int(self._counted.sum())

    def places(self) -> dict[str, Tensor]:
        """Where each image that counts is, int64 (N,) on the CPU.

        Returns:
            "episode" and "position" in it, from 0, and "of_class_before": the number of images of its class that come
            before it in its episode.
        """
        counted = self._counted.cpu()
        episode, position = counted.nonzero().unbind(1)
        same = self._classes.unsqueeze(2) == self._classes.unsqueeze(1)  # (E, T, T)
        return {"episode": episode, "position": position, "of_class_before": same.tril(-1).sum(-1)[counted]}

    def first(self) -> Tensor:
        """Images of the first episode, float32 (T, C, H, W)."""
        return next(self.batches(1))[0][0]

    def whole(self, number: int) -> Tensor:
        """The first `number` episodes without padding, float32 (N, T, C, H, W); all of them if there are fewer."""
        found = self._index.new_zeros((0, self.episode_length, *self.image_shape), dtype=torch.float32)
        for episodes, counted in self.batches(number):
            found = torch.cat([found, episodes[counted.all(1)]])
            if len(found) >= number:
                break
        return found[:number]

    def batches(self, num_episodes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All episodes, B = `num_episodes` at a time; the last batch may be smaller.

        Pixels do not depend on B or on the device, and are the same in every pass, also with binarization "dynamic".

        Yields:
            Episodes, float32 (B, T, C, H, W) in {0, 1} or, with "none", k / 255, and whether each image counts, bool
            (B, T): False for padding.
        """
        require_positive("num_episodes", num_episodes)
        generator = torch.Generator().manual_seed(self._seed)
        parts = zip(self._index.split(num_episodes), self._counted.split(num_episodes), strict=True)
        return ((pixels_of(_intensities(self._images, i), self._how, generator), counted) for i, counted in parts)


def first_images(batches: Iterable[tuple[Tensor, Tensor]], limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first batches of an `EpisodeSet`, in which only the first `limit` images count.

    Episodes without images that count are left out, but a batch keeps at least two of its episodes: the second provides
    the memory of another episode for the first.

    Args:
        batches: episodes (B, T, C, H, W) and whether their images count, bool (B, T).
        limit: number of images.

    Yields:
        Batches as in `batches`.
    """
    remaining = limit
    for episode, counted in batches:
        rank = counted.flatten().cumsum(0).view_as(counted)
        counted = counted & (rank <= remaining)
        remaining -= int(counted.sum())
        kept = max(2, int(counted.any(1).sum()))
        yield episode[:kept], counted[:kept]
        if remaining == 0:
            return


def _partition(
    classes: Tensor, episode_length: int, classes_per_episode: int | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Image numbers, int64 (E, T), and whether they count, bool (E, T): every image once, and padding."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(classes), generator=generator)  # (N,)
    if classes_per_episode is None:
        return _cut(order, episode_length)
    rank = torch.randperm(int(classes.max()) + 1, generator=generator)  # (classes,), positions in the shuffled order
    group = rank[classes[order]] // classes_per_episode  # (N,)
    members = order[group.argsort(stable=True)].split(group.bincount().tolist())
    episodes = [_cut(own, episode_length, order[group != number]) for number, own in enumerate(members)]
    index, counted = (torch.cat(part) for part in zip(*episodes, strict=True))
    shuffle = torch.randperm(len(index), generator=generator)  # otherwise the first episodes are of one group
    return index[shuffle], counted[shuffle]


def _cut(order: Tensor, episode_length: int, others: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cut M image numbers into episodes (E, T), padded with the first numbers, or with `others` if M < T."""
    place = torch.arange(math.ceil(len(order) / episode_length) * episode_length).view(-1, episode_length)
    padding = order if others is None or len(order) >= episode_length else others
    return torch.cat([order, padding])[: place.numel()].view_as(place), place < len(order)


def _intensities(images: Tensor, index: Tensor) -> Tensor:
    """Intensities in [0, 1] of the images at index (B, T), float32 (B, T, C, H, W)."""
    return images[index].float() / 255
