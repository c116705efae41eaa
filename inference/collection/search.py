"""Search of a collection: candidates of similar content, which are read, decoded and compared with the cue."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.collection.contents import Contents
from inference.collection.index import Index
from inference.collection.ranking import Ranking
from inference.collection.slots import Slots
from inference.trained_memory import filled, next_cue

_SAME = 1e-3  # largest difference of two blocks, up to which they are of equal images
_SMALLEST = 1e-5  # of a mean square difference: its logarithm is finite
_READS_WITH_MISSING = 3  # of cues with missing pixels: each read fills these pixels for the next search


class Search:
    """Finds the images of a collection that explain cues best.

    Args:
        contents: of blocks.
        slots: with the blocks.
        index: of the points of these blocks.
    """

    def __init__(self, contents: Contents, slots: Slots, index: Index) -> None:
        self._contents, self._slots, self._index = contents, slots, index
        self._free = slots.is_free()

    @torch.no_grad()
    def rank(self, cues: Tensor, missing: Tensor, candidates: int, left_out: Tensor | None = None) -> Ranking:
        """The candidates of cues (Q, C, H, W) whose pixels are in part missing, bool (Q, C, H, W).

        Args:
            cues: on the model's device; the values of missing pixels are not used.
            missing: on the same device.
            candidates: C, how many to compare with each cue.
            left_out: slots that are no candidates, one for each cue, (Q,).
        """
        holed = missing.flatten(1).any(1)
        if holed.any() and not holed.all():  # only some need further reads
            parts = [rows.nonzero()[:, 0] for rows in (holed, ~holed)]
            ranked = Ranking.joined([self.rank(cues[p], missing[p], candidates, _at(left_out, p)) for p in parts])
            return ranked.select(torch.cat(parts).argsort().cpu())
        estimate, found, own_error = filled(cues, missing), None, None
        for _ in range(_READS_WITH_MISSING if holed.any() else 1):
            blocks = self._contents.of_cues(estimate)
            if own_error is None:
                own_error = _error(self._contents.decode(blocks).unsqueeze(1), cues, missing)[:, 0]
            slots = self._nearest(blocks, candidates, left_out)
            slots, errors, best = self._compared(slots, cues, missing, found)
            found = slots, errors
            estimate = next_cue(cues, missing, best)
        assert found is not None and own_error is not None
        known = (~missing).flatten(1).sum(1).to(own_error)
        excess = _excess(self._contents.decode(self._slots.blocks(found[0][:, 0].clamp(min=0))), cues, missing)
        return Ranking(found[0], found[1].cpu(), self._heads(found[0]), own_error.cpu(), excess.cpu(), known.cpu())

    def has_twin(self, slots: Tensor) -> Tensor:
        """Whether another slot has the content of each of slots (n,), bool (n,)."""
        near = self._nearest(self._slots.blocks(slots), 2, None)  # (n, 2), the slots themselves among them
        same = self._difference(near, slots.unsqueeze(-1)) < _SAME
        return (same & (near >= 0) & (near != slots.unsqueeze(-1))).any(-1)

    def _nearest(self, blocks: Tensor, candidates: int, left_out: Tensor | None) -> Tensor:
        """Slots (Q, C) of the nearest contents."""
        points = self._contents.points(blocks).float().cpu()
        if left_out is None:
            return self._index.search(points, self._free, candidates)
        slots = self._index.search(points, self._free, candidates + 1)
        slots = slots.masked_fill(slots == left_out.unsqueeze(-1), -1)
        return slots.gather(1, (slots < 0).int().argsort(dim=1, stable=True))[:, :candidates]

    def _heads(self, slots: Tensor) -> Tensor:
        """Whether candidates (Q, C) have another content than the one before, bool (Q, C)."""
        other = self._difference(slots[:, 1:], slots[:, :-1]) >= _SAME
        return torch.cat([torch.ones_like(slots[:, :1], dtype=torch.bool), other | (slots[:, 1:] < 0)], 1)

    def _difference(self, slots: Tensor, others: Tensor) -> Tensor:
        """Largest difference of the contents of slots (Q, C) from those of others (Q, C) or (Q, 1), (Q, C)."""
        first, second = (
            self._slots.blocks(part.clamp(min=0).flatten()).flatten(1).unflatten(0, part.shape)
            for part in (slots, others)
        )
        return (first - second).abs().amax(-1)

    def _compared(
        self, slots: Tensor, cues: Tensor, missing: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best of the slots (Q, C) and of those found before, their errors (Q, C), and the image of the best."""
        different, place = slots.clamp(min=0).unique(return_inverse=True)  # a small collection is decoded once
        images, place = self._contents.decode(self._slots.blocks(different)), place.to(cues.device)
        rows = zip(place, cues, missing, strict=True)  # one after the other: all at once would take gigabytes in colour
        errors = torch.cat([_error(images[of_cue].unsqueeze(0), cue[None], hole[None]) for of_cue, cue, hole in rows])
        errors = errors.masked_fill((slots < 0).to(errors.device), torch.inf)
        best = images[place.gather(1, errors.argmin(1, keepdim=True))[:, 0]]
        if before is not None:
            again = (slots.unsqueeze(-1) == before[0].unsqueeze(1)).any(-1)
            errors = errors.masked_fill(again.to(errors.device), torch.inf)
            slots, errors = torch.cat([slots, before[0]], 1), torch.cat([errors, before[1]], 1)
        kept = errors.topk(place.shape[1], largest=False)  # sorted
        chosen = slots.gather(1, kept.indices.cpu())
        return chosen.masked_fill(kept.values.cpu() == torch.inf, -1), kept.values, best


def _at(slots: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if slots is None else slots[rows.cpu()]


def _excess(images: Tensor, cues: Tensor, missing: Tensor) -> Tensor:
    """ln of the square differences where images (Q, ...) are brighter than cues, over those where not, (Q,)."""
    difference = (images - cues).masked_fill(missing, 0).flatten(1)
    brighter, darker = (
        part.square().mean(-1).clamp(min=_SMALLEST) for part in (difference.relu(), (-difference).relu())
    )
    return (brighter / darker).log()


def _error(images: Tensor, cues: Tensor, missing: Tensor) -> Tensor:
    """Mean square differences (Q, C) of images (Q, C, ...) from cues (Q, ...) over the known pixels."""
    known = ~missing.flatten(1).unsqueeze(1)
    square = (images.flatten(2) - cues.flatten(1).unsqueeze(1)).square()
    return (square * known).sum(-1) / known.sum(-1)
