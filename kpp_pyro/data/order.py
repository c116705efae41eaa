"""The order in which training images come: which of them make each episode, drawn on the CPU from one seed."""

from __future__ import annotations

import torch
from torch import Tensor

from kpp_pyro.errors import InputError


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
