"""The order in which training images come: which of them make each episode, drawn on the CPU from one seed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kpp_pyro.data.augment import augment
from kpp_pyro.data.images import LabelledImages
from kpp_pyro.errors import InputError
from kpp_pyro.likelihoods.bernoulli import Binarization, binarize, binarize_once, require_binarization


class EpisodeOrder:
    """Endless rows of T distinct image numbers, the same on every machine and for any number of processes.

    Without classes, all images are shuffled and cut into rows; when less than a row is left, they are shuffled anew, so
    that each image is seen about once before any is seen twice. With them, every row is drawn by itself, from
    `classes_per_episode` classes chosen at random. Of the rows, process `rank` of `ranks` gets every `ranks`-th.

    Args:
        classes: class of every image, numbered 0, 1, 2, ... without gaps, (N,).
        episode_length: T.
        seed: of the order.
        classes_per_episode: see above.
        rank: this process.
        ranks: number of processes that share the order.

    Raises:
        InputError: episodes that these images cannot fill.
    """

    def __init__(
        self,
        classes: Tensor,
        episode_length: int,
        seed: int,
        classes_per_episode: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        require_drawable(classes, episode_length, classes_per_episode)
        self.num_images, self.episode_length = len(classes), episode_length
        self.classes_per_episode = classes_per_episode
        self.rank, self.ranks = rank, ranks
        self._members = [members.cpu() for members in classes.argsort(stable=True).split(classes.bincount().tolist())]
        self._generator = torch.Generator().manual_seed(seed)
        self._before_shuffle = self._generator.get_state()
        self._shuffled: Tensor | None = None  # rows (N // T, T) of the present shuffle
        self._taken = 0  # rows of it

    def draw(self, num_episodes: int) -> Tensor:
        """Image numbers of this process's next episodes, int64 (B, T) on the CPU, with B = `num_episodes`.

        Raises:
            InputError: no episodes.
        """
        require_positive("num_episodes", num_episodes)
        rows = self._of_all if self.classes_per_episode is None else self._of_classes
        return rows(num_episodes * self.ranks)[self.rank :: self.ranks]

    def state_dict(self) -> dict[str, Tensor]:
        """Where the order stands and of how many images it is, the same for every process."""
        return {
            "images": torch.tensor(self.num_images),
            "shuffle": self._before_shuffle,
            "taken": torch.tensor(self._taken),
            "now": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from where an order of the same images stood, with any number of processes.

        Raises:
            InputError: an order of another number of images.
        """
        if int(state["images"]) != self.num_images:
            raise InputError(
                f"training images: expected the {int(state['images'])} that the run began with, found {self.num_images}"
            )
        self._before_shuffle = state["shuffle"].cpu()
        self._taken = int(state["taken"])
        self._generator.set_state(self._before_shuffle)
        self._shuffled = self._shuffle() if self._taken else None
        self._generator.set_state(state["now"].cpu())

    def _of_all(self, count: int) -> Tensor:
        """Take the next rows (count, T) of the shuffle, and of as many new ones as it takes."""
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
        order = torch.randperm(self.num_images, generator=self._generator)
        return order[: self.num_images // self.episode_length * self.episode_length].view(-1, self.episode_length)

    def _of_classes(self, count: int) -> Tensor:
        """Draw rows (count, T), each by itself."""
        return torch.stack([self._row_of_classes() for _ in range(count)])

    def _row_of_classes(self) -> Tensor:
        chosen = torch.randperm(len(self._members), generator=self._generator)[: self.classes_per_episode]
        among = torch.cat([self._members[number] for number in chosen.tolist()])
        return among[torch.randperm(len(among), generator=self._generator)[: self.episode_length]]


def require_episode(classes: Tensor, episode_length: int, classes_per_episode: int | None) -> None:
    """Raise InputError, naming the flag, unless images of these classes (N,) fill an episode."""
    require_positive("--episode-length", episode_length)
    if episode_length > len(classes):
        raise InputError(
            f"--episode-length: expected at most the {len(classes)} images of the set, found {episode_length}"
        )
    if classes_per_episode is None:
        return
    require_positive("--classes-per-episode", classes_per_episode)
    num_classes = int(classes.max()) + 1
    if classes_per_episode > num_classes:
        raise InputError(
            f"--classes-per-episode: expected at most the {num_classes} classes of the set, found {classes_per_episode}"
        )


def require_drawable(classes: Tensor, episode_length: int, classes_per_episode: int | None) -> None:
    """Raise InputError unless any choice of classes fills an episode with distinct images."""
    require_episode(classes, episode_length, classes_per_episode)
    if classes_per_episode is None:
        return
    fewest = int(classes.bincount().sort().values[:classes_per_episode].sum())
    if episode_length > fewest:
        raise InputError(
            f"--episode-length: expected at most {fewest}, what the smallest classes hold together "
            f"with --classes-per-episode {classes_per_episode}, found {episode_length}"
        )


def require_positive(name: str, value: int) -> None:
    """Raise InputError for a number below one."""
    if value < 1:
        raise InputError(f"{name}: expected at least 1, found {value}")


def require_keys(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise InputError unless a sampler's state has the keys of another one."""
    if set(state) != set(expected):
        listed, found = (", ".join(sorted(keys)) or "none" for keys in (expected, state))
        raise InputError(f"Sampler state: expected the keys {listed}, found {found}")


PixelRule = Literal["dynamic", "threshold"]  # what is left to do to pixels that may have been binarized once
_LARGEST_SEED = 2**63


class Rendering:
    """Moves images a little if asked to, and binarizes them, with a generator of its own.

    Args:
        rule: how to binarize.
        augmented: shift and rotate the images at random before they are binarized.
        seed: of a run.
        rank: process of the run; each draws pixels of its own.
        device: of the images.
    """

    def __init__(self, rule: PixelRule, augmented: bool, seed: int, rank: int, device: torch.device) -> None:
        self.rule, self.augmented = rule, augmented
        own_seed = (1_000_003 * (seed + 1) + rank) % _LARGEST_SEED  # not the seed of the order
        self.generator = torch.Generator(device).manual_seed(own_seed)

    def __call__(self, images: Tensor) -> Tensor:
        """Render bytes (B, T, C, H, W) as float32 of the same shape in {0, 1}."""
        pixels = images.float() / 255
        if self.augmented:
            pixels = augment(pixels.flatten(0, 1), self.generator).unflatten(0, images.shape[:2])
        return binarize(pixels, self.rule, self.generator)

    def load_state(self, state: Tensor) -> None:
        """Go on from the generator's state.

        Raises:
            InputError: a state of another kind of device.
        """
        own, given = self.generator.get_state(), state.cpu()
        if given.dtype != own.dtype or given.shape != own.shape:
            raise InputError(
                f"Sampler state 'pixels': expected {len(own)} bytes of a {self.generator.device.type} "
                f"device, found {given.dtype} {tuple(given.shape)} from another kind of device"
            )
        self.generator.set_state(given)


def prepare(images: Tensor, binarization: Binarization) -> tuple[Tensor, PixelRule]:
    """Return the bytes (N, C, H, W) to keep of a set, and how to binarize what is drawn of them.

    Raises:
        InputError: an unknown binarization.
    """
    require_binarization(binarization)
    if binarization == "static":
        return binarize_once(images), "threshold"
    return images, binarization


def is_black_and_white(images: Tensor) -> bool:
    """Whether a set (N, C, H, W) knows no grey."""
    return bool(((images == 0) | (images == 255)).all())


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
