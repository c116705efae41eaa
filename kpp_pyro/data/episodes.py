"""Episodes: sets of T images that are written to one memory.

`EpisodeSampler` draws them at random without end, to train on; `EpisodeSet` deals every image out exactly
once, to score. Both keep the images as one uint8 tensor on its device and index and binarize them there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from kpp_pyro.data.augment import augment as augment_pixels
from kpp_pyro.data.binarize import Binarization, binarize, binarize_once, require_binarization
from kpp_pyro.data.images import LabelledImages
from kpp_pyro.errors import InputError


class EpisodeSampler:
    """Training episodes of T distinct images, drawn at random.

    classes_per_episode: draw that many distinct classes for each episode, and its images from those alone.
    augment: shift and rotate the images at random before they are binarized; images that are black and white to begin
        with are cut at 1/2 again, whatever the binarization.
    `static` binarizes once at construction, so that each image looks the same in every episode.
    All randomness comes from one generator on the images' device, seeded with `seed`.
    Raises InputError, naming the flag, for an episode that these images cannot fill.
    """

    def __init__(
        self,
        images: LabelledImages,
        episode_length: int,
        binarization: Binarization,
        seed: int,
        classes_per_episode: int | None = None,
        augment: bool = False,
    ) -> None:
        """Check the request and prepare the images."""
        classes = _dense_classes(images)  # (N,)
        _require_episode(images, classes, episode_length, classes_per_episode)
        if classes_per_episode is not None:
            _require_full_classes(classes, episode_length, classes_per_episode)
        self.episode_length = episode_length
        self.classes_per_episode = classes_per_episode
        self.augment = augment
        self.num_images = len(images)
        self.image_shape = images.image_shape
        self._images, self._how = _prepare(images.images, binarization)
        if augment and _is_black_and_white(self._images):
            self._how = "threshold"  # the grey at the edge of a moved drawing is not a probability of ink
        self._classes = classes
        self._num_classes = int(classes.max()) + 1
        self._generator = torch.Generator(images.images.device).manual_seed(seed)

    def sample(self, num_episodes: int) -> Tensor:
        """Draw episodes: float32 (B, T, C, H, W) in {0, 1} with B = `num_episodes`, on the images' device."""
        _require_positive("num_episodes", num_episodes)
        index = self._draw(num_episodes)  # (B, T)
        pixels = _grey(self._images, index)  # (B, T, C, H, W)
        if self.augment:
            pixels = augment_pixels(pixels.flatten(0, 1), self._generator).unflatten(0, index.shape)
        return binarize(pixels, self._how, self._generator)

    def thresholded(self) -> Tensor:
        """Return every image once, cut at 1/2: bool (N, C, H, W)."""
        return self._images > 127

    def state_dict(self) -> dict[str, Tensor]:
        """Return all random state, so that drawing goes on exactly where it stopped."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict()`. Raises InputError for a state that this device's generator cannot take."""
        if set(state) != {"generator"}:
            found = ", ".join(state) or "no keys"
            raise InputError(f"Sampler state: expected the key 'generator', found {found}")
        own, given = self._generator.get_state(), state["generator"].cpu()
        if given.dtype != own.dtype or given.shape != own.shape:
            raise InputError(
                f"Sampler state 'generator': expected {len(own)} bytes of a {self._generator.device.type} "
                f"device, found {given.dtype} {tuple(given.shape)} from another kind of device"
            )
        self._generator.set_state(given)

    def _draw(self, num_episodes: int) -> Tensor:
        """Return the indices (B, T) of the images of each episode."""
        if self.classes_per_episode is None:
            return self._of_all(num_episodes)
        return self._of_classes(num_episodes, self.classes_per_episode)

    def _of_all(self, num_episodes: int) -> Tensor:
        """Return the indices (B, T) of distinct images, cutting as few permutations of the set as suffice.

        Episodes cut from one permutation share no image; each of them by itself is a uniform draw.
        """
        per_permutation = self.num_images // self.episode_length
        permutations = [self._permutation() for _ in range(math.ceil(num_episodes / per_permutation))]
        cuts = [order[: per_permutation * self.episode_length] for order in permutations]
        return torch.cat(cuts).view(-1, self.episode_length)[:num_episodes]

    def _of_classes(self, num_episodes: int, num_chosen: int) -> Tensor:
        """Return the indices (B, T) of the best random scores among `num_chosen` random classes' images."""
        lots = self._uniform(num_episodes, self._num_classes)  # (B, classes)
        barred = torch.ones_like(lots, dtype=torch.bool).scatter_(1, lots.topk(num_chosen).indices, False)
        scores = self._uniform(num_episodes, self.num_images)  # (B, N)
        return scores.masked_fill_(barred[:, self._classes], -1.0).topk(self.episode_length).indices

    def _permutation(self) -> Tensor:
        return torch.randperm(self.num_images, generator=self._generator, device=self._generator.device)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, device=self._generator.device)


class EpisodeSet:
    """Evaluation episodes that hold every image exactly once, in an order that depends on `seed` alone.

    A last, short episode is filled up from the images that were dealt first; the filling does not count.
    classes_per_episode: the shuffled classes are grouped by that many (the last group may have fewer), each
        group's images are cut into episodes, and the episodes of all groups are shuffled. A short episode is
        filled up from its own group; only where that holds fewer than T images does one stand in it twice.
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
        classes = _dense_classes(images).cpu()  # (N,)
        _require_episode(images, classes, episode_length, classes_per_episode)
        if max_episodes is not None:
            _require_positive("max_episodes", max_episodes)
        self.episode_length = episode_length
        self.image_shape = images.image_shape
        self._images, self._how = _prepare(images.images, binarization)
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

    def batches(self, num_episodes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the episodes once, B = `num_episodes` at a time (the last batch may be smaller).

        Yields episodes float32 (B, T, C, H, W) in {0, 1} and counted bool (B, T), False for filling.
        Every pass yields the same bits, whatever B and the device, dynamic binarization included.
        """
        _require_positive("num_episodes", num_episodes)
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
    episodes = [_cut(order_of_group, episode_length) for order_of_group in members]
    index, counted = (torch.cat(part) for part in zip(*episodes, strict=True))
    shuffle = torch.randperm(len(index), generator=generator)  # or the first episodes would be all one group
    return index[shuffle], counted[shuffle]


def _cut(order: Tensor, episode_length: int) -> tuple[Tensor, Tensor]:
    """Cut M image indices into episodes (E, T), filled up from the start again: distinct wherever T <= M."""
    place = torch.arange(math.ceil(len(order) / episode_length) * episode_length).view(-1, episode_length)
    return order[place % len(order)], place < len(order)


def _prepare(images: Tensor, binarization: Binarization) -> tuple[Tensor, Literal["dynamic", "threshold"]]:
    """Return the images to index and what is left to do to each episode's pixels."""
    require_binarization(binarization)
    if binarization == "static":
        return binarize_once(images), "threshold"
    return images, binarization


def _is_black_and_white(images: Tensor) -> bool:
    """Whether a set (N, C, H, W) knows no grey."""
    return bool(((images == 0) | (images == 255)).all())


def _grey(images: Tensor, index: Tensor) -> Tensor:
    """Return intensities in [0, 1], float32 (B, T, C, H, W), of the images at index (B, T)."""
    return images[index].float() / 255


def _dense_classes(images: LabelledImages) -> Tensor:
    """Return the labels (N,) renumbered 0, 1, 2, ... without gaps."""
    return images.labels.unique(return_inverse=True)[1]


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name}: expected at least 1, found {value}")


def _require_episode(
    images: LabelledImages, classes: Tensor, episode_length: int, classes_per_episode: int | None
) -> None:
    _require_positive("--episode-length", episode_length)
    if episode_length > len(images):
        raise InputError(
            f"--episode-length: expected at most the {len(images)} images of the set, found {episode_length}"
        )
    if classes_per_episode is None:
        return
    _require_positive("--classes-per-episode", classes_per_episode)
    num_classes = int(classes.max()) + 1
    if classes_per_episode > num_classes:
        raise InputError(
            f"--classes-per-episode: expected at most the {num_classes} classes of the set, found {classes_per_episode}"
        )


def _require_full_classes(classes: Tensor, episode_length: int, classes_per_episode: int) -> None:
    """Raise InputError unless any choice of classes fills an episode with distinct images."""
    fewest = int(classes.bincount().sort().values[:classes_per_episode].sum())
    if episode_length > fewest:
        raise InputError(
            f"--episode-length: expected at most {fewest}, what the smallest classes hold together "
            f"with --classes-per-episode {classes_per_episode}, found {episode_length}"
        )
