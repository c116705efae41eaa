"""The slots of a collection: places for an image's blocks, in shards, and the name of the image in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kpp_pyro.errors import InputError
from kpp_pyro.files.collections import Shard

_SLOTS_PER_SHARD = 2**15  # about: a shard is of whole memories


class Slots:
    """Blocks and names by slot. Freed slots are taken again, the lowest first.

    Shards may be mapped from files: what is written to them then stays in the machine's memory.

    Args:
        block_shape: shape of an image's blocks, (R, C_m, h, w).
        capacity: number of slots of a memory.
    """

    def __init__(self, block_shape: Sequence[int], capacity: int) -> None:
        self.block_shape, self.capacity = tuple(block_shape), capacity
        self.per_shard = max(1, _SLOTS_PER_SHARD // capacity) * capacity
        self.names: list[str | None] = []  # by slot; None where it is free
        self.by_name: dict[str, int] = {}
        self._shards: list[Tensor] = []  # (slots, R, C_m, h, w) each; all but the last one of `per_shard` slots

    def slot(self, name: str) -> int:
        """The slot of an image.

        Raises:
            InputError: no image of this name.
        """
        if name not in self.by_name:
            raise InputError(f"name: expected an image of the collection, found {name!r:.100}")
        return self.by_name[name]

    def put(self, names: Sequence[str], blocks: Tensor) -> list[int]:
        """Put the blocks of new images, (n, R, C_m, h, w), into free slots; returns the slots."""
        free = (slot for slot, name in enumerate(self.names) if name is None)
        slots = [slot for slot, _ in zip(free, names, strict=False)]
        slots += range(len(self.names), len(self.names) + len(names) - len(slots))
        self._grow(max(slots) + 1)
        for name, slot in zip(names, slots, strict=True):
            self.names[slot], self.by_name[name] = name, slot
        for shard, inside, chosen in self._by_shard(torch.tensor(slots)):
            shard[inside] = blocks[chosen]
        return slots

    def clear(self, name: str) -> int:
        """Free the slot of an image; returns the slot."""
        slot = self.slot(name)
        del self.by_name[name]
        self.names[slot] = None
        for shard, inside, _ in self._by_shard(torch.tensor([slot])):
            shard[inside] = 0
        return slot

    def blocks(self, slots: Tensor) -> Tensor:
        """Blocks (n, R, C_m, h, w) of slots (n,)."""
        found = torch.empty(len(slots), *self.block_shape)
        for shard, inside, chosen in self._by_shard(slots):
            found[chosen] = shard[inside]
        return found

    def is_free(self) -> Tensor:
        """Whether each slot is free, bool (slots,)."""
        return torch.tensor([name is None for name in self.names], dtype=torch.bool)

    def shards(self) -> Iterator[Shard]:
        """The slots, shard after shard."""
        for number, blocks in enumerate(self._shards):
            names = self.names[number * self.per_shard :][: self.per_shard]
            yield Shard(blocks[: len(names)], list(names))

    def restore(self, shards: Sequence[Shard]) -> None:
        """Take over shards that were saved.

        Raises:
            InputError: shards of other sizes.
        """
        if any(len(shard.names) != self.per_shard for shard in shards[:-1]) or any(
            len(shard.names) > self.per_shard for shard in shards[-1:]
        ):
            raise InputError(f"expected {self.per_shard} slots in every file but the last, found other numbers")
        self._shards = [shard.values for shard in shards]
        self.names = [name for shard in shards for name in shard.names]
        self.by_name = {name: slot for slot, name in enumerate(self.names) if name is not None}

    def _grow(self, slots: int) -> None:
        """Make room for this number of slots; the last shard at least doubles, so that growing takes little time."""
        while (room := sum(map(len, self._shards))) < slots:
            last = self._shards.pop() if self._shards and len(self._shards[-1]) < self.per_shard else None
            begun = 0 if last is None else len(last)
            size = min(self.per_shard, max(2 * begun, self.capacity, slots - room + begun))
            shard = torch.zeros(-(-size // self.capacity) * self.capacity, *self.block_shape)
            if last is not None:
                shard[:begun] = last
            self._shards.append(shard)
        self.names += [None] * (slots - len(self.names))

    def _by_shard(self, slots: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Each shard, the places in it of those of the slots (n,) that it has, and which of the n these are."""
        of = slots // self.per_shard
        for number in of.unique().tolist():
            chosen = (of == number).nonzero()[:, 0]
            yield self._shards[number], slots[chosen] % self.per_shard, chosen
