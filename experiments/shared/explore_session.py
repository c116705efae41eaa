"""The state of an exploration of a memory, and what each control of the page does to it.

The sliders set a key by the standard normal CDF of its numbers, in percent: equal steps have equal prior probability,
and x and y run evenly across and down the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.trained_memory import Memory, TrainedMemory, next_cue
from kpp_pyro.corruptions import Corrupted, corrupt
from kpp_pyro.distances import Distance
from kpp_pyro.memory.blocks import SCALE, Addressing, X, Y

Percent = tuple[float, float, float]  # x, y and scale of a key, on the sliders

_ENDS = 1e-4  # of the CDF: keys are finite at 0 and at 100 % too
_SAME = 0.5  # memory pixels; boxes that differ by less are of the same block


@dataclass(frozen=True)
class Session:
    """The state of one browser: an episode, its memory, a chosen image, and a recall of all images.

    Attributes:
        episode: images (T, C, H, W).
        memory: the memory that the episode wrote.
        keys: (T, R, 3), the mode of each image's key.
        chosen: index of the chosen image.
        cue: cues of the recall; before any corruption, the images themselves.
        distance: of images, that fits the likelihood.
        reads: images (T, C, H, W) after each read of the recall.
    """

    episode: Tensor
    memory: Memory
    keys: Tensor
    chosen: int
    cue: Corrupted
    distance: Distance
    reads: tuple[Tensor, ...] = ()

    def error(self, image: Tensor) -> float:
        """Distance of an image (C, H, W) from the chosen image: wrong pixels, or the squared error per dimension."""
        return self.distance.between(image, self.episode[self.chosen]).item()


class Explorer:
    """A trained memory, and the episodes that may be written to it.

    Args:
        trained: writes episodes to memories, and reads these.
        episodes: images (T, C, H, W) each.
    """

    def __init__(self, trained: TrainedMemory, episodes: Sequence[Tensor]) -> None:
        self.trained = trained
        self.addressing: Addressing = trained.addressing
        self.episodes = episodes

    def open(self, episode: int) -> Session:
        """Write an episode to a memory, and choose its first image."""
        images = self.episodes[episode]
        memory = self.trained.write(images)
        return Session(
            images, memory, self.trained.locate(memory, images), 0, _uncorrupted(images), self.trained.distance
        )

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

    def read(self, session: Session, percent: Percent) -> Tensor:
        """Pixel probabilities (C, H, W) of the read at the sliders' key."""
        return self.trained.read(session.memory, self.key(percent)).images[0]

    def corrupt(self, session: Session, corruption: str, strength: float) -> Session:
        """Begin a recall from corrupted copies of the images.

        Raises:
            InputError: a strength that this corruption cannot have.
        """
        return replace(session, cue=corrupt(session.episode, corruption, strength), reads=())

    def read_once(self, session: Session) -> tuple[Session, Percent]:
        """Read once more; returns the session, and the sliders of the key that the chosen image's cue read.

        All images are recalled, since an encoder may see neighbouring images too. Where a cue misses pixels, its known
        ones are put back after each read, as in `TrainedMemory.complete`.
        """
        hidden = session.cue.hidden
        if not session.reads:
            found = self.trained.complete(session.memory, session.cue.images, hidden)[0]
        else:
            cues = next_cue(session.cue.images, hidden, session.reads[-1])
            found = self.trained.recall(session.memory, cues)[0]
        reads = (*session.reads, found.images)
        return replace(session, reads=reads), self.percent(found.keys[session.chosen])

    def start_again(self, session: Session) -> Session:
        """Discard the corruption and the reads."""
        return replace(session, cue=_uncorrupted(session.episode), reads=())


def _uncorrupted(images: Tensor) -> Corrupted:
    return Corrupted(images, torch.zeros_like(images, dtype=torch.bool))
