"""Search for the nearest of many points: exactly, by matrix products, or approximately, by faiss."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from kpp_pyro.errors import InputError

_LISTS_PER_ROOT = 4  # inverted lists of faiss, times the root of the number of points: what its authors recommend
_PROBED = 64  # lists that are searched: corrupted cues are far from their own points
_TRAINED_ON = 40  # points for each list, from which faiss learns the lists


class Index(Protocol):
    """Finds the points nearest to others."""

    def __init__(self, shards: Sequence[Tensor]) -> None:
        """Index points (n, P), shard after shard; points of free slots may be among them."""

    def search(self, points: Tensor, free: Tensor, count: int) -> Tensor:
        """Slots (Q, count) of about the nearest points to (Q, P), without the free slots, bool (slots,).

        With fewer points, or where an index finds fewer, a slot is -1.
        """


class ExactIndex:
    """All distances to all points, shard after shard: |q - p|^2 up to |q|^2, by one matrix product a shard.

    Args:
        shards: points (n, P) each. They are not copied, and may be mapped from a file.
    """

    def __init__(self, shards: Sequence[Tensor]) -> None:
        self._shards = shards
        self._squares = [shard.square().sum(-1) for shard in self._shards]

    def search(self, points: Tensor, free: Tensor, count: int) -> Tensor:
        """Slots of the nearest points, see `Index`."""
        distances, slots = [], []
        first = 0
        for shard, squares in zip(self._shards, self._squares, strict=True):
            taken = squares.masked_fill(free[first : first + len(shard)], torch.inf)
            distance = torch.addmm(taken, points, shard.mT, alpha=-2)  # (Q, n)
            nearest = distance.topk(min(count, len(shard)), largest=False)
            distances.append(nearest.values)
            slots.append(nearest.indices + first)
            first += len(shard)
        distance, slot = torch.cat(distances, 1), torch.cat(slots, 1)
        best = distance.topk(min(count, distance.shape[1]), largest=False)
        return slot.gather(1, best.indices).masked_fill(best.values == torch.inf, -1)


class FaissIndex:
    """Inverted lists of points of 8 bits a number, by faiss: a quarter of the bytes, and a small part of the search.

    Args:
        shards: points (n, P) each, which are copied.

    Raises:
        InputError: faiss is not installed.
    """

    def __init__(self, shards: Sequence[Tensor]) -> None:
        faiss = _faiss()
        total = sum(map(len, shards))
        lists = max(1, min(int(_LISTS_PER_ROOT * total**0.5), total // _TRAINED_ON))
        index = faiss.index_factory(shards[0].shape[1], f"IVF{lists},SQ8")
        every = max(1, total // (_TRAINED_ON * lists))
        index.train(torch.cat([shard[::every] for shard in shards]).numpy())
        for shard in shards:
            index.add(shard.numpy())
        self._index, self._lists = index, lists

    def search(self, points: Tensor, free: Tensor, count: int) -> Tensor:
        """Slots of points in the lists nearest to a point, see `Index`."""
        faiss = _faiss()
        freed = faiss.IDSelectorBatch(free.nonzero()[:, 0].numpy())
        parameters = faiss.SearchParametersIVF(sel=faiss.IDSelectorNot(freed), nprobe=min(_PROBED, self._lists))
        return torch.from_numpy(self._index.search(points.numpy(), count, params=parameters)[1])


def has_faiss() -> bool:
    """Whether the package faiss is installed."""
    return find_spec("faiss") is not None


def _faiss() -> Any:
    if not has_faiss():
        raise InputError('index: expected the package faiss (pip install "kpp-pyro[index]"), found none')
    return importlib.import_module("faiss")
