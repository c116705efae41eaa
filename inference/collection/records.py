"""What a collection returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Match:
    """An image of the collection that a cue may be a copy of.

    Attributes:
        name: of the image.
        memory: number of its memory.
        block: number of its first block in that memory.
        probability: that the cue is a copy of this image.
        image: what its blocks are read as, (C, H, W): pixel probabilities, or intensities.
    """

    name: str
    memory: int
    block: int
    probability: float
    image: Tensor


@dataclass(frozen=True)
class Recalled:
    """What a cue recalls.

    Attributes:
        matches: the most probable images, best first.
        never_written: probability that no image of the collection is the one.
    """

    matches: tuple[Match, ...]
    never_written: float

    @property
    def found(self) -> Match | None:
        """The best match, if it is more probable than all else together; otherwise None."""
        return self.matches[0] if self.matches and self.matches[0].probability > 0.5 else None
