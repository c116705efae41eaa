"""The state of an exploration of a memory, and what its controls do to it.

The sliders set a key by the standard normal CDF of its numbers, in percent: equal steps have equal prior probability,
and x and y run evenly across and down the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from experiments.shared.explore_own import OwnPictures
from inference.collection.collection import Collection
from inference.trained_memory import Memory, Read, TrainedMemory, next_cue
from kpp_pyro.corruptions import Corrupted, corrupt
from kpp_pyro.distances import Distance
from kpp_pyro.memory.blocks import SCALE, Addressing, X, Y

Percent = tuple[float, float, float]  # x, y and scale of a key, on the sliders

_ENDS = 1e-4  # of the CDF: keys are finite at 0 and at 100 % too
_SAME = 0.5  # memory pixels; boxes that differ by less are of the same block
_UNDAMAGED = "as written"


@dataclass(frozen=True)
class Session:
    """The state of one browser: an episode, its memory, a chosen image, and a recall of all images.

    Attributes:
        episode: images (T, C, H, W).
        memory: the memory that the episode wrote.
        keys: (T, R, 3), the mode of each image's key.
        distance: of images, that fits the likelihood.
        cue: cues of the recall; before any corruption, the images themselves.
        damage: what the cues are, in words.
        reads: images (T, C, H, W) after each read of the recall.
        chosen: index of the chosen image.
        names: of the images, if they have any.
        alone: whether each image was written as an episode of its own, as by a collection.
    """

    episode: Tensor
    memory: Memory
    keys: Tensor
    distance: Distance
    cue: Corrupted
    damage: str = _UNDAMAGED
    reads: tuple[Tensor, ...] = ()
    chosen: int = 0
    names: tuple[str, ...] = ()
    alone: bool = False

    @property
    def title(self) -> str:
        """Number and name of the chosen image."""
        number = f"image {self.chosen + 1}"
        return f"{number}, {self.names[self.chosen]}" if self.names else number

    def error(self, image: Tensor) -> float:
        """Distance of an image (C, H, W) from the chosen image: wrong pixels, or the squared error per dimension."""
        return self.distance.between(image, self.episode[self.chosen]).item()


class Explorer:
    """A trained memory, and the episodes that may be written to it.

    Args:
        trained: writes episodes to memories, and reads these.
        episodes: images (T, C, H, W) each.
        collection: folder of a collection to begin with, which is only read.
    """

    def __init__(self, trained: TrainedMemory, episodes: Sequence[Tensor], collection: Path | None = None) -> None:
        self.trained = trained
        self.addressing: Addressing = trained.addressing
        self.episodes = episodes
        self.collection = collection
        layout = self.addressing.layout
        self._blocks = self.addressing.boxes(self.addressing.key_grid(layout.rows, layout.columns))  # (N, R, 4)

    def open(self, episode: int) -> Session:
        """Write an episode to a memory, and choose its first image."""
        images = self.episodes[episode]
        memory = self.trained.write(images)
        keys = self.trained.locate(memory, images)
        return Session(images, memory, keys, self.trained.distance, _uncorrupted(images))

    def own(self) -> OwnPictures:
        """The collection to begin with, or an empty one; each browser has one of its own.

        Raises:
            InputError: the model writes no blocks, or the folder is no collection of this model.
        """
        return OwnPictures(
            Collection.load(self.collection, self.trained) if self.collection else Collection(self.trained)
        )

    def open_own(self, own: OwnPictures, number: int) -> Session:
        """Open a memory of a collection, and choose its first image.

        Raises:
            InputError: a memory whose images were all removed.
        """
        names, images = own.episode(number)
        memory = own.collection.memory(number)
        keys = self.trained.locate(_copies(memory, len(images)), images.unsqueeze(1)).squeeze(1)
        cue = _uncorrupted(images)
        return Session(images, memory, keys, self.trained.distance, cue, names=tuple(names), alone=True)

    def key(self, percent: Percent) -> Tensor:
        """The key (1, R, 3) of the sliders; all R reads are of the same place."""
        x, y, scale = percent
        uniform = torch.empty(3, dtype=torch.float32)
        uniform[X], uniform[Y], uniform[SCALE] = x / 100, y / 100, scale / 100
        return torch.special.ndtri(uniform.clamp(_ENDS, 1 - _ENDS)).expand(1, self.addressing.layout.reads, 3)

    def percent(self, key: Tensor) -> Percent:
        """The sliders of the first read of a key (R, 3), in steps of a tenth of a percent."""
        uniform = torch.special.ndtr(key[0]).tolist()
        x, y, scale = (round(100 * uniform[coordinate], 1) for coordinate in (X, Y, SCALE))
        return x, y, scale

    def own_key(self, session: Session) -> Percent:
        """The sliders of the chosen image's own key."""
        return self.percent(session.keys[session.chosen])

    def numbers(self, percent: Percent) -> tuple[float, float, float]:
        """The numbers of the sliders' key, in the order of the sliders; standard normal under the prior."""
        key = self.key(percent)[0, 0].tolist()
        return key[X], key[Y], key[SCALE]

    def point_at(self, across: float, down: float, scale: float) -> Percent:
        """The sliders that point at a place, given in shares of the memory's width and height, with this scale."""
        x, y = (round(100 * min(max(share, 0.0), 1.0), 1) for share in (across, down))
        return x, y, scale

    def images_at(self, session: Session, percent: Percent) -> list[int]:
        """Indices of the images whose own keys read the block that the sliders point at."""
        own, box = self.addressing.boxes(session.keys), self.addressing.boxes(self.key(percent).to(session.keys))
        return ((own - box).abs() < _SAME).all(-1).any(-1).nonzero()[:, 0].tolist()  # (T, R, 4) to (T,)

    def block_at(self, percent: Percent) -> int | None:
        """Number of the block that the sliders point at; None between blocks, and for a read of more than one."""
        box = self.addressing.boxes(self.key(percent))
        same = ((self._blocks - box).abs() < _SAME).all(-1).all(-1)
        return int(same.nonzero()[0]) if same.any() else None

    def read(self, session: Session, percent: Percent) -> Tensor:
        """Pixel probabilities (C, H, W) of the read at the sliders' key."""
        return self.trained.read(session.memory, self.key(percent)).images[0]

    def corrupt(self, session: Session, corruption: str, strength: float) -> Session:
        """Begin a recall from corrupted copies of the images.

        Raises:
            InputError: a strength that this corruption cannot have.
        """
        cue, damage = (
            corrupt(session.episode, corruption, strength),
            f"with {corruption.replace('_', ' ')} {strength:g}",
        )
        return replace(session, cue=cue, damage=damage, reads=())

    def read_once(self, session: Session) -> tuple[Session, Percent]:
        """Read once more; returns the session, and the sliders of the key that the chosen image's cue read.

        All images are recalled, since an encoder may see neighbouring images too. Where a cue misses pixels, its known
        ones are put back after each read, as in `TrainedMemory.complete`.
        """
        cues, hidden = session.cue.images, session.cue.hidden
        if session.reads:
            cues, hidden = next_cue(cues, hidden, session.reads[-1]), torch.zeros_like(hidden)
        found = self._recall(session, cues, hidden)
        reads = (*session.reads, found.images)
        return replace(session, reads=reads), self.percent(found.keys[session.chosen])

    def start_again(self, session: Session) -> Session:
        """Discard the corruption and the reads."""
        return replace(session, cue=_uncorrupted(session.episode), damage=_UNDAMAGED, reads=())

    def _recall(self, session: Session, cues: Tensor, hidden: Tensor) -> Read:
        """One read of cues (T, C, H, W), which are encoded as their images were when they were written."""
        if not session.alone:
            return self.trained.complete(session.memory, cues, hidden)[0]
        memories = _copies(session.memory, len(cues))
        read = self.trained.complete(memories, cues.unsqueeze(1), hidden.unsqueeze(1))[0]
        return Read(read.latents.squeeze(1), read.images.squeeze(1), read.keys.squeeze(1))


def _copies(memory: Memory, count: int) -> Memory:
    """The same memory for each of `count` episodes."""
    return Memory(memory.value.expand(count, *memory.value.shape), memory.author)


def _uncorrupted(images: Tensor) -> Corrupted:
    return Corrupted(images, torch.zeros_like(images, dtype=torch.bool))
