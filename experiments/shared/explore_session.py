"""What a person who explores a memory by hand looks at, and what the controls of the page do to it.

A key is set in shares of the prior: its standard normal numbers through their CDF, in percent, so that equal steps
are equally probable, and x and y run evenly across and down the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.metrics.denoising import wrong_pixels
from inference.trained_memory import Memory, TrainedMemory, next_cue
from kpp_pyro.corruptions import Corrupted, corrupt
from kpp_pyro.memory.blocks import SCALE, Addressing, X, Y

Percent = tuple[float, float, float]  # x, y and scale of a key, as the sliders have them

_ENDS = 1e-4  # of the CDF: a key is a finite number at 0 and at 100 % too
_SAME = 0.5  # memory pixels by which two boxes may differ and still be of the same block


@dataclass(frozen=True)
class Session:
    """What one browser looks at: an episode, its memory, one of its images, and a recall of all of them.

    Attributes:
        episode: (T, C, H, W).
        memory: what the episode wrote.
        keys: (T, R, 3), where each image is found in it.
        chosen: the image that is shown.
        cue: of the recall; the images as they are, before noise is added.
        reads: (T, C, H, W) after each step of the recall.
    """

    episode: Tensor
    memory: Memory
    keys: Tensor
    chosen: int
    cue: Corrupted
    reads: tuple[Tensor, ...] = ()

    def wrong_pixels(self, images: Tensor) -> int:
        """Pixels of an image (C, H, W) on another side of 1/2 than the chosen image's."""
        return int(wrong_pixels(images, self.episode[self.chosen]))


class Explorer:
    """A trained memory, and episodes to write to it.

    Args:
        memories: to write to and read from.
        episodes: (T, C, H, W) each.
    """

    def __init__(self, memories: TrainedMemory, episodes: Sequence[Tensor]) -> None:
        self.memories = memories
        self.addressing: Addressing = memories.addressing
        self.episodes = episodes

    def open(self, episode: int) -> Session:
        """Write an episode to a memory, and begin with its first image."""
        images = self.episodes[episode]
        memory = self.memories.write(images)
        return Session(images, memory, self.memories.locate(memory, images), 0, _undamaged(images))

    def key(self, percent: Percent) -> Tensor:
        """The key (1, R, 3) of the sliders: all reads are of the same place."""
        x, y, scale = percent
        uniform = torch.empty(3)
        uniform[X], uniform[Y], uniform[SCALE] = x / 100, y / 100, scale / 100
        return torch.special.ndtri(uniform.clamp(_ENDS, 1 - _ENDS)).expand(1, self.addressing.layout.reads, 3)

    def percent(self, key: Tensor) -> Percent:
        """The sliders of a key (R, 3), of its first read, in steps of a tenth of a percent."""
        uniform = torch.special.ndtr(key[0]).tolist()
        x, y, scale = (round(100 * uniform[coordinate], 1) for coordinate in (X, Y, SCALE))
        return x, y, scale

    def own_key(self, session: Session) -> Percent:
        """The sliders of the chosen image's own key."""
        return self.percent(session.keys[session.chosen])

    def numbers(self, percent: Percent) -> tuple[float, float, float]:
        """The key of the sliders, in their order, standard normal under the prior."""
        key = self.key(percent)[0, 0].tolist()
        return key[X], key[Y], key[SCALE]

    def point_at(self, across: float, down: float, scale: float) -> Percent:
        """The sliders of the key whose block's centre is nearest to a place, in shares of the memory, at this scale."""
        x, y = (round(100 * min(max(share, 0.0), 1.0), 1) for share in (across, down))
        return x, y, scale

    def images_at(self, session: Session, percent: Percent) -> list[int]:
        """The images of the episode whose own keys read the block that the sliders point at."""
        own, box = self.addressing.boxes(session.keys), self.addressing.boxes(self.key(percent).to(session.keys))
        return ((own - box).abs() < _SAME).all(-1).any(-1).nonzero()[:, 0].tolist()  # (T, R, 4) to (T,)

    def read(self, session: Session, percent: Percent) -> Tensor:
        """What the sliders' key finds, pixel probabilities (C, H, W)."""
        return self.memories.read(session.memory, self.key(percent)).images[0]

    def add_noise(self, session: Session, noise: str, strength: float) -> Session:
        """A new cue of damaged images, and no read yet.

        Raises:
            InputError: a strength that this noise cannot have.
        """
        return replace(session, cue=corrupt(session.episode, noise, strength), reads=())

    def read_once(self, session: Session) -> tuple[Session, Percent]:
        """One more step of the recall, and the sliders of where the chosen image was found.

        All images are recalled, not just the chosen one: an encoder may look at neighbours too. As in
        `TrainedMemory.complete`, pixels of a cue that misses some are put back where they are known.
        """
        hidden = session.cue.hidden
        if not session.reads:
            found = self.memories.complete(session.memory, session.cue.images, hidden)[0]
        else:
            cues = next_cue(session.cue.images, hidden, session.reads[-1])
            found = self.memories.recall(session.memory, cues)[0]
        reads = (*session.reads, found.images)
        return replace(session, reads=reads), self.percent(found.keys[session.chosen])

    def start_again(self, session: Session) -> Session:
        """No noise, and no read."""
        return replace(session, cue=_undamaged(session.episode), reads=())


def _undamaged(images: Tensor) -> Corrupted:
    return Corrupted(images, torch.zeros_like(images, dtype=torch.bool))
