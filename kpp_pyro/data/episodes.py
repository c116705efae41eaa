"""Episodes: sets of T images that are written to one memory.

`EpisodeSampler` draws them at random without end, to train on; `EpisodeSet` deals every image out exactly
once, to score. Both keep the images as one uint8 tensor on its device and index and binarize them there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from kpp_pyro.data.binarize import Binarization, binarize
from kpp_pyro.data.images import LabelledImages
from kpp_pyro.data.order import EpisodeOrder, require_episode, require_keys, require_positive
from kpp_pyro.data.rendering import Rendering, is_black_and_white, prepare


class EpisodeSampler:
    """Training episodes of T distinct images, drawn at random without end.

    A step is drawn in two halves, so that the second can be captured with the rest of the step: `draw` says on the CPU
    which images it takes (`EpisodeOrder`), `render` looks them up on the device and binarizes them.

    classes_per_episode: draw that many distinct classes for each episode, and its images from those alone.
    augment: shift and rotate the images at random before they are binarized; images that are black and white to begin
        with are cut at 1/2 again, whatever the binarization.
    rank, ranks: this process, and how many of them share the order; each gets other episodes and other pixels.
    `static` binarizes once at construction, so that each image looks the same in every episode.
    The order comes from `seed` alone, the pixels from a generator of the process on the images' device.
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
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Check the request and prepare the images."""
        self.order = EpisodeOrder(images.dense_classes(), episode_length, seed, classes_per_episode, rank, ranks)
        self.image_shape = images.image_shape
        self._images, how = prepare(images.images, binarization)
        if augment and is_black_and_white(self._images):
            how = "threshold"  # the grey at the edge of a moved drawing is not a probability of ink
        self.rendering = Rendering(how, augment, seed, rank, images.images.device)

    @property
    def generators(self) -> list[torch.Generator]:
        """Return what `render` draws from."""
        return [self.rendering.generator]

    def draw(self, num_episodes: int) -> Tensor:
        """Say which images make the next episodes of this process: int64 (B, T) on the CPU, B = `num_episodes`."""
        return self.order.draw(num_episodes)

    def render(self, drawn: Tensor) -> Tensor:
        """Turn what was drawn, moved to the images' device, into episodes: float32 (B, T, C, H, W) in {0, 1}."""
        return self.rendering(self._images[drawn])

    def sample(self, num_episodes: int) -> Tensor:
        """Draw and render: float32 (B, T, C, H, W) in {0, 1} with B = `num_episodes`, on the images' device."""
        return self.render(self.draw(num_episodes).to(self._images.device))

    def close(self) -> None:
        """Nothing has to be ended: all images are in memory."""

    def thresholded(self) -> Tensor:
        """Return every image once, cut at 1/2: bool (N, C, H, W)."""
        return self._images > 127

    def state_dict(self) -> dict[str, Tensor]:
        """Return all random state, so that drawing goes on exactly where it stopped."""
        return {**self.order.state_dict(), "pixels": self.rendering.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict()`.

        Raises InputError for the state of another number of images, or one that this device's generator cannot take.
        """
        require_keys(state, self.state_dict())
        self.rendering.load_state(state["pixels"])
        self.load_order(state)

    def load_order(self, state: dict[str, Tensor]) -> None:
        """Continue the order of another process's `state_dict()`, with pixels of one's own."""
        self.order.load_state_dict(state)


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
