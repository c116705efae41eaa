"""Batches of held-out episodes, dealt out to processes: what is drawn for one does not depend on who scores it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from inference.processes import ALONE, Processes
from inference.randomness import seed_of

Found = TypeVar("Found")


@dataclass(frozen=True)
class Batch:
    """Episodes to score together.

    Attributes:
        episode: images (B, T, C, H, W).
        counted: which of them count, (B, T).
        before: the last episode of the batch before, (1, T, C, H, W); None in the first batch.
        seed: of all that is drawn for the batch; its own, whichever process scores it.
    """

    episode: Tensor
    counted: Tensor
    before: Tensor | None
    seed: int


def deal(episodes: Iterable[tuple[Tensor, Tensor]], seed: int, processes: Processes = ALONE) -> Iterator[Batch]:
    """Deal batches of images and of which of them count: of n processes each gets every n-th."""
    before: Tensor | None = None
    for number, (episode, counted) in enumerate(episodes):
        if number % processes.count == processes.rank:
            yield Batch(episode, counted, before, seed_of(seed, number))
        before = episode[-1:]


def collect(found: Sequence[Found], processes: Processes = ALONE) -> list[Found]:
    """What every process found in its batches, in the order of the batches; every process has to call this."""
    hands = processes.gather(list(found))
    return [hands[number % len(hands)][number // len(hands)] for number in range(sum(map(len, hands)))]
