"""Training episodes (`TrainingEpisodes`, `EpisodeSampler`), their order (`EpisodeOrder`) and pixels (`Rendering`)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from kpp_pyro.data.augment import augment
from kpp_pyro.data.images import SOME_SET, LabelledImages, Origin
from kpp_pyro.errors import InputError
from kpp_pyro.likelihoods.bernoulli import Binarization, binarize, binarize_once

OptionalBinarization = Binarization | Literal["none"]
"""What pixels a program sees: binary ones, or with "none" the intensities k / 255 of all 256 levels."""
PixelRule = Literal["dynamic", "threshold", "none"]
"""What to do with images when they are used; after static binarization, they are cut at the threshold 1/2."""
_WHITE = 255  # the highest level
_LARGEST_SEED = 2**63
_CUDA_STATE = torch.Size([16])  # shape of a CUDA generator's state


class TrainingEpisodes:
    """An endless stream of random training episodes of T distinct images; what all such streams share.

    Attributes:
        order: chooses the images of each episode.
        rendering: makes pixels of drawn images, on a device of its own.
        image_shape: (C, H, W).
    """

    order: EpisodeOrder
    rendering: Rendering
    image_shape: tuple[int, int, int]

    @property
    def generators(self) -> list[torch.Generator]:
        """The random generators of `render`."""
        return [self.rendering.generator]

    def draw(self, num_episodes: int) -> Tensor:
        """What `render` needs for B = `num_episodes` episodes, (B, T, ...) on the CPU."""
        raise NotImplementedError

    def render(self, drawn: Tensor) -> Tensor:
        """Episodes, float32 (B, T, C, H, W), from what was drawn and moved to the device; see `Rendering`."""
        raise NotImplementedError

    def sample(self, num_episodes: int) -> Tensor:
        """Draw and render B = `num_episodes` episodes: float32 (B, T, C, H, W), on the device."""
        return self.render(self.draw(num_episodes).to(self.rendering.generator.device))

    def all_images(self) -> Tensor:
        """All images (N, C, H, W) on the device, to look for a nearest one.

        Uint8 levels with binarization "none"; otherwise bool, each channel thresholded at 1/2.
        """
        levels = self._levels()
        return levels if self.rendering.rule == "none" else levels > 127

    def _levels(self) -> Tensor:
        """All images, uint8 (N, C, H, W) on the device."""
        raise NotImplementedError

    def close(self) -> None:
        """End worker processes, if there are any."""

    def state_dict(self) -> dict[str, Tensor]:
        """All random state: position in the order and state of the pixels' generator."""
        return {**self.order.state_dict(), "pixels": self.rendering.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict()`.

        Raises:
            InputError: the state of another number of images.
        """
        require_keys(state, self.state_dict())
        self.rendering.load_state(state["pixels"])
        self.load_order(state)

    def load_order(self, state: dict[str, Tensor]) -> None:
        """Continue the order of another process's `state_dict()`. Rendering keeps this process's generator."""
        self.close()
        self.order.load_state_dict(state)


class EpisodeSampler(TrainingEpisodes):
    """An endless stream of random training episodes of T distinct images, all in memory on one device.

    Sampling has two steps, so that the second can be part of a CUDA graph: `draw` chooses image numbers on the CPU
    (`EpisodeOrder`), and `render` indexes and renders the images, uint8 until then, on their device.

    The order depends on `seed` alone. The pixels are drawn from the process's own generator on the images' device.
    Binarization "static" binarizes once, at construction: an image has the same bits in every episode. With "none",
    pixels are intensities k / 255, and only the augmentation is random.

    Args:
        images: the training images.
        episode_length: T.
        binarization: of the pixels, or "none".
        seed: of the order and of the pixels.
        classes_per_episode: number of distinct classes of each episode; classes are ignored if None.
        augment: shift and rotate the images at random before they are binarized. Binary images are thresholded at 1/2
            after augmentation, for any `binarization` but "none", with which levels are rounded to whole ones.
        rank: of this process; each process gets other episodes and other pixels.
        ranks: number of processes that share the order.

    Raises:
        InputError: too few images or classes for an episode. The message names the flag.
    """

    def __init__(
        self,
        images: LabelledImages,
        episode_length: int,
        binarization: OptionalBinarization,
        seed: int,
        classes_per_episode: int | None = None,
        augment: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.order = EpisodeOrder(
            images.dense_classes(), episode_length, seed, classes_per_episode, rank, ranks, images.origin
        )
        self.image_shape = images.image_shape
        self._images, how = prepare(images.images, binarization)
        if augment and how != "none" and is_black_and_white(self._images):
            how = "threshold"  # grey levels at the edges of a moved drawing are not probabilities
        together = classes_per_episode is not None
        self.rendering = Rendering(how, augment, together, seed, rank, images.images.device)

    def draw(self, num_episodes: int) -> Tensor:
        """Image numbers of this process's next B = `num_episodes` episodes, int64 (B, T) on the CPU."""
        return self.order.draw(num_episodes)

    def render(self, drawn: Tensor) -> Tensor:
        """Episodes, float32 (B, T, C, H, W), from drawn numbers that were moved to the images' device."""
        return self.rendering(self._images[drawn])

    def _levels(self) -> Tensor:
        return self._images


class EpisodeOrder:
    """Endless random rows of T distinct image numbers, the same on every machine and for any number of processes.

    If `classes_per_episode` is None, all images are shuffled and cut into rows. When fewer than T are left, all are
    shuffled again, so that almost every image is used once before any is used twice. Otherwise each row is drawn
    independently, from `classes_per_episode` random classes. Process `rank` of `ranks` gets every `ranks`-th row.

    Args:
        classes: class of every image, numbered 0, 1, 2, ... without gaps, (N,).
        episode_length: T.
        seed: of the order.
        classes_per_episode: number of classes of each row; classes are ignored if None.
        rank: of this process.
        ranks: number of processes that share the order.
        origin: of the images, for messages.

    Raises:
        InputError: too few images or classes for an episode.
    """

    def __init__(
        self,
        classes: Tensor,
        episode_length: int,
        seed: int,
        classes_per_episode: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        origin: Origin = SOME_SET,
    ) -> None:
        require_drawable(classes, episode_length, classes_per_episode, origin)
        self.num_images, self.episode_length = len(classes), episode_length
        self.classes_per_episode = classes_per_episode
        self.rank, self.ranks = rank, ranks
        self._members = [members.cpu() for members in classes.argsort(stable=True).split(classes.bincount().tolist())]
        self._generator = torch.Generator().manual_seed(seed)
        self._before_shuffle = self._generator.get_state()
        self._shuffled: Tensor | None = None  # rows (N // T, T) of the current shuffle
        self._taken = 0  # number of its rows that were drawn

    def draw(self, num_episodes: int) -> Tensor:
        """Image numbers of this process's next B = `num_episodes` episodes, int64 (B, T) on the CPU.

        Raises:
            InputError: `num_episodes` below 1.
        """
        require_positive("num_episodes", num_episodes)
        rows = self._of_all if self.classes_per_episode is None else self._of_classes
        return rows(num_episodes * self.ranks)[self.rank :: self.ranks]

    def state_dict(self) -> dict[str, Tensor]:
        """Position in the order and number of images; the same in every process."""
        return {
            "images": torch.tensor(self.num_images),
            "shuffle": self._before_shuffle,
            "taken": torch.tensor(self._taken),
            "now": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from the `state_dict()` of an order of the same images, with any number of processes.

        Raises:
            InputError: the state of another number of images, or more rows taken than a shuffle has.
        """
        if int(state["images"]) != self.num_images:
            raise InputError(
                f"training images: expected the {int(state['images'])} that the run began with, found {self.num_images}"
            )
        rows, taken = self.num_images // self.episode_length, int(state["taken"])
        if not 0 <= taken <= rows:
            raise InputError(f"training episodes: expected 0 to {rows} taken of the current shuffle, found {taken}")
        self._before_shuffle, self._taken = state["shuffle"].cpu(), taken
        self._generator.set_state(self._before_shuffle)
        self._shuffled = self._shuffle() if self._taken else None
        self._generator.set_state(state["now"].cpu())

    def _of_all(self, count: int) -> Tensor:
        """The next rows (count, T) of the current shuffle, and of as many new shuffles as needed."""
        parts = []
        while count > 0:
            if self._shuffled is None or self._taken == len(self._shuffled):
                self._before_shuffle, self._taken = self._generator.get_state(), 0
                self._shuffled = self._shuffle()
            parts.append(self._shuffled[self._taken : self._taken + count])
            self._taken += len(parts[-1])
            count -= len(parts[-1])
        return torch.cat(parts)

    def _shuffle(self) -> Tensor:
        """All images in a random order, in rows (N // T, T); the rest is dropped."""
        order = torch.randperm(self.num_images, generator=self._generator)
        return order[: self.num_images // self.episode_length * self.episode_length].view(-1, self.episode_length)

    def _of_classes(self, count: int) -> Tensor:
        """Independent rows (count, T), each from random classes."""
        return torch.stack([self._row_of_classes() for _ in range(count)])

    def _row_of_classes(self) -> Tensor:
        chosen = torch.randperm(len(self._members), generator=self._generator)[: self.classes_per_episode]
        among = torch.cat([self._members[number] for number in chosen.tolist()])
        return among[torch.randperm(len(among), generator=self._generator)[: self.episode_length]]


class Rendering:
    """Random augmentation (optional) of images and what is made of their pixels, with a generator of its own.

    Args:
        rule: how to binarize; with "none", augmented images are rounded to whole levels, as photographs have them.
        augmented: shift and rotate the images at random before they are binarized.
        together: move the images of an episode together, see `augment`: those of few classes have much in common.
        seed: of the run.
        rank: of this process; pixels of different processes are independent.
        device: of the images.
    """

    def __init__(
        self, rule: PixelRule, augmented: bool, together: bool, seed: int, rank: int, device: torch.device
    ) -> None:
        self.rule, self.augmented, self.together = rule, augmented, together
        own_seed = (1_000_003 * (seed + 1) + rank) % _LARGEST_SEED  # other than the seed of the order
        self.generator = torch.Generator(device).manual_seed(own_seed)

    def __call__(self, images: Tensor) -> Tensor:
        """Pixels of images, uint8 (B, T, C, H, W): float32 of the same shape, in {0, 1}, or k / 255 with "none"."""
        pixels = images.float() / _WHITE
        if self.augmented:
            together = images.shape[1] if self.together else 1
            pixels = augment(pixels.flatten(0, 1), self.generator, together=together).unflatten(0, images.shape[:2])
            if self.rule == "none":
                pixels = (pixels * _WHITE).round() / _WHITE
        return pixels_of(pixels, self.rule, self.generator)

    def load_state(self, state: Tensor) -> None:
        """Restore the generator's state; one of another kind of device becomes the seed of new draws.

        Raises:
            InputError: a tensor that is no generator's state.
        """
        given, own = state.cpu(), self.generator.get_state()
        if given.dtype != own.dtype or given.shape not in (own.shape, torch.Generator().get_state().shape, _CUDA_STATE):
            found = f"{given.dtype} {tuple(given.shape)}"
            raise InputError(f"pixels: expected the state of a random generator, found {found}")
        if given.shape == own.shape:
            self.generator.set_state(given)
        else:
            self.generator.manual_seed(seed_of_state(given))


def seed_of_state(state: Tensor) -> int:
    """A seed that a generator's state determines, to go on with a generator of another kind."""
    return int(np.random.SeedSequence(state.tolist()).generate_state(1, np.uint64)[0]) % _LARGEST_SEED


def pixels_of(intensities: Tensor, rule: PixelRule, generator: torch.Generator) -> Tensor:
    """Intensities in [0, 1], float of any shape, as they are with "none", or else binarized (see `binarize`)."""
    return intensities if rule == "none" else binarize(intensities, rule, generator)


def prepare(images: Tensor, binarization: OptionalBinarization) -> tuple[Tensor, PixelRule]:
    """Binarize a set of images once if the binarization is "static".

    Args:
        images: uint8 (N, C, H, W).
        binarization: of the images, or "none".

    Returns:
        The images to keep, uint8 (N, C, H, W), and what to do with them when they are used.

    Raises:
        InputError: an unknown binarization.
    """
    require_optional_binarization(binarization)
    if binarization == "static":
        return binarize_once(images), "threshold"
    return images, binarization


def is_black_and_white(images: Tensor) -> bool:
    """Whether all intensities of a set, uint8 (N, C, H, W), are 0 or 255."""
    return bool(((images == 0) | (images == 255)).all())


def require_optional_binarization(name: str) -> None:
    """Raise InputError unless `name` is an `OptionalBinarization`."""
    known = (*get_args(Binarization), "none")
    if name not in known:
        raise InputError(f"--binarize: expected one of {', '.join(known)}, found {name!r}")


def require_episode(
    classes: Tensor, episode_length: int, classes_per_episode: int | None, origin: Origin = SOME_SET
) -> None:
    """Raise InputError, which names the flag, if there are too few images or classes for an episode.

    Args:
        classes: class of every image, numbered 0, 1, 2, ... without gaps, (N,).
        episode_length: T.
        classes_per_episode: number of classes of an episode, or None.
        origin: of the images, named in the message.
    """
    require_positive("--episode-length", episode_length)
    if episode_length > len(classes):
        raise InputError(
            f"--episode-length: expected at most the {len(classes)} images of {origin.name}, "
            f"found {episode_length}; give {origin.remedy}"
        )
    if classes_per_episode is None:
        return
    require_positive("--classes-per-episode", classes_per_episode)
    num_classes = int(classes.max()) + 1
    if classes_per_episode > num_classes:
        raise InputError(
            f"--classes-per-episode: expected at most the {num_classes} classes of {origin.name}, "
            f"found {classes_per_episode}"
        )


def require_drawable(
    classes: Tensor, episode_length: int, classes_per_episode: int | None, origin: Origin = SOME_SET
) -> None:
    """Raise InputError if some `classes_per_episode` classes have fewer than T images; see `require_episode`."""
    require_episode(classes, episode_length, classes_per_episode, origin)
    if classes_per_episode is None:
        return
    fewest = int(classes.bincount().sort().values[:classes_per_episode].sum())
    if episode_length > fewest:
        raise InputError(
            f"--episode-length: expected at most {fewest}, what the smallest classes of {origin.name} hold "
            f"together with --classes-per-episode {classes_per_episode}, found {episode_length}"
        )


def require_positive(name: str, value: int) -> None:
    """Raise InputError, which starts with `name`, for a number below 1."""
    if value < 1:
        raise InputError(f"{name}: expected at least 1, found {value}")


def require_keys(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise InputError unless a sampler's state has the same keys as `expected`."""
    if set(state) != set(expected):
        listed, found = (", ".join(sorted(keys)) or "none" for keys in (expected, state))
        raise InputError(f"Sampler state: expected the keys {listed}, found {found}")
