"""A collection: any number of images in as many memories as they take, and recall by content from all of them.

    collection = Collection(run.memory)
    collection.write(images, names)
    recalled = collection.recall(cue)[0]
    recalled.matches[0].name, recalled.matches[0].probability, recalled.never_written

A memory has a block (R of them for R reads) for each of `capacity` images; the images of a collection are spread over
as many memories as they need. A recall has three steps:

1. search: the blocks of all memories whose contents are nearest to what the cue would write (`candidates` of them);
2. comparison: each candidate is read and decoded, and its image compared with the cue's known pixels;
3. probabilities: of each candidate, and of a cue that was never written, see `inference.collection.calibration`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from inference.collection.calibration import Calibration, Sample, calibration_cues, shares_of
from inference.collection.contents import Contents, memories_of
from inference.collection.index import ExactIndex, FaissIndex, Index, has_faiss
from inference.collection.options import Candidates, IndexName
from inference.collection.ranking import Ranking
from inference.collection.records import Match, Recalled
from inference.collection.search import Search
from inference.collection.slots import Slots
from inference.memory_types import Memory
from inference.trained_memory import TrainedMemory, described, require_tensor
from kpp_pyro.arguments import checked
from kpp_pyro.corruptions import Corrupted
from kpp_pyro.errors import InputError
from kpp_pyro.files.collections import CollectionList, SavedCollection, Shard, read_collection, write_collection
from kpp_pyro.files.reading import whole_path
from kpp_pyro.progress import show_progress
from kpp_pyro.schema import Count, Natural, check

_CUES_AT_ONCE = 64
_CALIBRATION_CUES, _CALIBRATION_CANDIDATES = 512, 256
_SILENT_SECONDS = 3.0  # before a progress bar is shown
_CHANGED = 0.2  # share of the images after whose change a collection is calibrated again
_MOST_EXACT = 250_000  # images that `index="auto"` searches exactly
_LEAST_APPROXIMATE = 1_000  # images; of fewer, an approximate index has nothing to leave out


class Collection:
    """Any number of named images, in as many memories of a trained model as they take.

    Images are intensities in [0, 1], (n, C, H, W), as for `TrainedMemory`: binary for a model of binary images. Blocks
    stay in the machine's memory, or in the files from which they were loaded.

    Args:
        trained: a model that writes images to blocks of their own, such as `inference.load(path).memory`.
        index: how contents are searched: "exact", by a matrix product; "faiss", by an approximate index (of 1,000
            images or more), which needs the package faiss; "auto": faiss for more than 250,000 images if it is
            installed, else exact.

    Attributes:
        trained: the model.
        calibration: of the probabilities; None before the first recall, and with fewer than two different images.

    Raises:
        InputError: a model without such blocks, or no such index.
    """

    @checked
    def __init__(self, trained: TrainedMemory, index: IndexName = "auto") -> None:
        self.trained = trained
        self.calibration: Calibration | None = None
        self._contents, self._index_name = Contents(trained), index
        self._slots = Slots(self._contents.block_shape, self._contents.layout.capacity)
        self._next_number = 0
        self._search: Search | None = None  # None: to be made
        self._sample, self._changes = Sample(), 0  # to calibrate with; writes and removals since the calibration
        self._digests: dict[Path, str] = {}  # of what was loaded from or saved to a folder

    def __len__(self) -> int:
        """Number of images."""
        return len(self._slots.by_name)

    def __contains__(self, name: object) -> bool:
        """Whether an image has this name."""
        return name in self._slots.by_name

    def __repr__(self) -> str:
        """Images and memories."""
        return f"Collection({len(self)} images in {self.memories} memories)"

    @property
    def names(self) -> list[str]:
        """Names of all images, in the order of their slots."""
        return [name for name in self._slots.names if name is not None]

    @property
    def capacity(self) -> int:
        """Number of images that one memory holds."""
        return self._slots.capacity

    @property
    def memories(self) -> int:
        """Number of memories."""
        return -(-len(self._slots.names) // self.capacity)

    @checked
    def memory(self, number: Natural) -> Memory:
        """One of the memories, which `TrainedMemory` reads.

        Raises:
            InputError: no memory of this number.
        """
        value = memories_of(self._slots.blocks(torch.tensor(self._slots_of(number))), self._contents.layout)[0]
        return Memory(value.to(self.trained.device), self.trained.fingerprint)

    @checked
    def names_in(self, number: Natural) -> list[str]:
        """Names of the images in one of the memories, in the order of their blocks.

        Raises:
            InputError: no memory of this number.
        """
        return [name for slot in self._slots_of(number) if (name := self._slots.names[slot]) is not None]

    @checked
    def memory_of(self, name: str) -> int:
        """Number of the memory that has an image.

        Raises:
            InputError: no image of this name.
        """
        return self._place(self._slots.slot(name))[0]

    @checked
    def write(self, images: Tensor, names: list[str] | None = None) -> list[str]:
        """Write images to free blocks, and to new memories where these are too few.

        Args:
            images: (n, C, H, W).
            names: of the images; None: numbers, counted over all writes.

        Returns:
            The names.

        Raises:
            InputError: images of another shape, or names that are repeated, are in the collection, or are too few.
        """
        images = self._images("images", images)
        named = self._new_names(len(images), names)
        slots = self._slots.put(named, self._contents.of_images(images).float().cpu())
        self._sample.add(named, images)
        self._changes += len(slots)
        self._search = None
        return named

    @checked
    def remove(self, name: str) -> None:
        """Remove an image; its blocks become free.

        Raises:
            InputError: no image of this name.
        """
        self._slots.clear(name)
        self._sample.drop(name)
        self._changes += 1
        self._search = None

    @checked
    def read(self, names: list[str]) -> Tensor:
        """The images (n, C, H, W) that the blocks of n names are read as.

        Raises:
            InputError: no image of such a name, or no names.
        """
        if not names:
            raise InputError("names: expected one name or more, found none")
        slots = torch.tensor([self._slots.slot(name) for name in names])
        return self._contents.decode(self._slots.blocks(slots))

    @checked
    def recall(
        self, cues: Tensor, mask: Tensor | None = None, matches: Count = 5, candidates: Candidates = 256
    ) -> list[Recalled]:
        """Recall the images that cues may be copies of, by content, from all memories.

        Args:
            cues: (Q, C, H, W), or (C, H, W) for one: copies of images, noisy or with missing pixels.
            mask: bool, of the shape of `cues`, True where a pixel is missing.
            matches: how many images to return for each cue, at most `candidates`.
            candidates: how many images of similar content are compared with each cue. More find more, and take longer.

        Returns:
            What each of the Q cues recalls.

        Raises:
            InputError: an empty collection, or cues or a mask of another shape.
        """
        if not len(self):
            raise InputError("cues: expected a collection with images, found an empty one")
        cues, missing = self._cues(cues, mask)
        if self._is_stale():
            self.calibrate()
        recalled = list[Recalled]()
        for cue, hole in zip(cues.split(_CUES_AT_ONCE), missing.split(_CUES_AT_ONCE), strict=True):
            recalled += self._recalled(self._searched().rank(cue, hole, candidates), matches)
        return recalled

    def calibrate(self) -> Calibration | None:
        """Fit the probabilities to corrupted copies of up to 256 written images; takes seconds, in colour minutes.

        `recall` and `save` do this where a fifth of the images has changed since the last time. An image that was
        written twice is left out: without one of its blocks, it is still in the collection.

        Returns:
            The calibration; None with fewer than two different images.
        """
        self.calibration, self._changes = None, 0
        slots, images = self._different(self._sample.images)
        if len(slots) > 1:
            times = -(-_CALIBRATION_CUES // len(slots))
            slots, cues = slots.repeat(times), calibration_cues(images.repeat(times, 1, 1, 1))
            written, left_out = (self._ranked(cues, hidden) for hidden in (None, slots))
            self.calibration = Calibration.fit(written, slots, left_out, len(self))
        return self.calibration

    @checked
    def save(self, path: Path | str) -> None:
        """Save the collection to a folder of safetensors files and one JSON file, and calibrate it if need be.

        The folder is a new or empty one, or the one that the collection was loaded from or saved to.

        Raises:
            InputError: the folder holds something else, or a collection that was saved by another process since.
            OutputError: a file cannot be written.
        """
        self._save(path)
        if self._is_stale():
            self.calibrate()
            self._save(path)

    @classmethod
    @checked
    def load(cls, path: Path | str, trained: TrainedMemory, index: IndexName = "auto") -> Collection:
        """Load a collection that `save` saved. Blocks are read from its files when they are needed.

        Raises:
            InputError: no collection, a damaged one, or one that another model wrote.
        """
        saved = read_collection(path)
        trained.require_author(str(path), saved.listed.author)
        collection = cls(trained, index)
        try:
            collection._restore(saved)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        collection._digests[whole_path(path)] = saved.digest
        return collection

    def _save(self, path: Path | str) -> None:
        calibration, images = self.calibration, self._sample.images
        listed = CollectionList(
            author=self.trained.fingerprint,
            images=len(self),
            next_number=self._next_number,
            block_shape=list(self._slots.block_shape),
            seen=self._sample.seen,
            calibration=None if calibration is None else calibration.model_dump(),
            changes=self._changes,
        )
        sample = Shard(torch.stack(list(images.values())).half(), list(images)) if images else None
        place = whole_path(path)
        saved = SavedCollection(listed, list(self._slots.shards()), sample, self._digests.get(place, ""))
        self._digests[place] = write_collection(path, saved)

    def _restore(self, saved: SavedCollection) -> None:
        """Take over what was saved.

        Raises:
            InputError: parts that do not fit together.
        """
        self._next_number, self._changes = saved.listed.next_number, saved.listed.changes
        self._slots.restore(saved.shards)
        if saved.listed.calibration is not None:
            self.calibration = check(saved.listed.calibration, Calibration, "expected a calibration")
        if saved.sample is not None:
            images = dict(zip(map(str, saved.sample.names), saved.sample.values.float(), strict=True))
            if not images.keys() <= self._slots.by_name.keys():
                raise InputError("expected a sample of the images, found other names")
            self._images("sample", saved.sample.values)
            self._sample = Sample(images=images, seen=saved.listed.seen)

    def _is_stale(self) -> bool:
        """Whether too much has changed since the last calibration."""
        return self.calibration is None or self._changes > _CHANGED * self.calibration.collection

    def _different(self, images: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Slots (n,) and images (n, C, H, W) of those whose content no other image has."""
        if len(self) < 2 or not images:
            return torch.tensor([], dtype=torch.long), torch.empty(0, *self.trained.image_shape)
        slots = torch.tensor([self._slots.slot(name) for name in images])
        kept = ~self._searched().has_twin(slots)
        chosen = torch.stack(list(images.values()))[kept]
        return slots[kept], chosen.to(self.trained.device, self.trained.dtype)

    def _ranked(self, cues: Corrupted, left_out: Tensor | None) -> Ranking:
        """The candidates of the cues of a calibration."""
        kind = "calibrating" if left_out is None else "calibrating, left out"
        parts = []
        for part in show_progress(
            torch.arange(len(cues.images)).split(_CUES_AT_ONCE), kind, leave=False, delay=_SILENT_SECONDS
        ):
            images, hidden = cues.images[part], cues.hidden[part]
            own = None if left_out is None else left_out[part]
            parts.append(self._searched().rank(images, hidden, _CALIBRATION_CANDIDATES, own))
        return Ranking.joined(parts)

    def _searched(self) -> Search:
        """The search, with an index of what is written now."""
        if self._search is None:
            asked = self._index_name == "faiss" and len(self) >= _LEAST_APPROXIMATE
            by_faiss = asked or (self._index_name == "auto" and len(self) > _MOST_EXACT and has_faiss())
            points = [self._contents.points(shard.values) for shard in self._slots.shards()]
            index: Index = FaissIndex(points) if by_faiss else ExactIndex(points)
            self._search = Search(self._contents, self._slots, index)
        return self._search

    def _recalled(self, ranking: Ranking, matches: int) -> Iterator[Recalled]:
        """What each cue recalls, from its candidates."""
        if self.calibration is None:
            written = torch.full_like(ranking.own_error, 0.5)
            shares = shares_of(ranking) / 2
        else:
            shares, written = self.calibration.probabilities(ranking)
        slots, shares = ranking.slots[:, :matches], shares[:, :matches]
        images = self._contents.decode(self._slots.blocks(slots.clamp(min=0).flatten())).unflatten(0, slots.shape)
        for row, of_row, image, probability in zip(
            slots.tolist(), shares.tolist(), images, written.tolist(), strict=True
        ):
            found = (
                Match(str(self._slots.names[slot]), *self._place(slot), share, image[rank])
                for rank, (slot, share) in enumerate(zip(row, of_row, strict=True))
                if slot >= 0
            )
            yield Recalled(tuple(found), 1 - probability)

    def _slots_of(self, memory: int) -> range:
        """The slots of a memory."""
        if memory >= self.memories:
            raise InputError(f"number: expected a memory below {self.memories}, found {memory}")
        return range(memory * self.capacity, min((memory + 1) * self.capacity, len(self._slots.names)))

    def _place(self, slot: int) -> tuple[int, int]:
        """The memory of a slot, and its first block in it."""
        memory, inside = divmod(slot, self.capacity)
        return memory, inside * self._contents.layout.reads

    def _new_names(self, count: int, names: list[str] | None) -> list[str]:
        """Names of `count` new images, checked."""
        if names is None:
            numbers = (str(number) for number in itertools.count(self._next_number))
            names = list(itertools.islice((name for name in numbers if name not in self), count))
            self._next_number = int(names[-1]) + 1 if names else self._next_number
        if len(names) != count:
            raise InputError(f"names: expected {count}, one for each image, found {len(names)}")
        twice = next((name for name, uses in Counter(names).items() if uses > 1 or name in self), None)
        if twice is not None:
            where = "one that the collection has" if twice in self else "one twice"
            raise InputError(f"names: expected new names, each once, found {where}, {twice!r:.100}")
        return names

    def _images(self, name: str, images: Tensor) -> Tensor:
        """Images (n, C, H, W), checked, on the model's device."""
        require_tensor(name, images)
        if images.ndim != 4 or images.shape[1:] != self.trained.image_shape or not len(images):
            expected = ", ".join(map(str, self.trained.image_shape))
            raise InputError(f"{name}: expected (n, {expected}), found {tuple(images.shape)}")
        return self.trained.checked_images(name, images)[0]

    def _cues(self, cues: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cues (Q, C, H, W) with 0 at missing pixels, and whether pixels are missing, bool (Q, C, H, W); checked."""
        require_tensor("cues", cues)
        mask = torch.zeros_like(cues, dtype=torch.bool) if mask is None else mask
        require_tensor("mask", mask)
        if mask.shape != cues.shape or mask.dtype != torch.bool:
            raise InputError(f"mask: expected bool {tuple(cues.shape)}, found {described(mask)}")
        cues, mask = (value if value.ndim == 4 else value.unsqueeze(0) for value in (cues, mask.to(cues.device)))
        if mask.numel() and mask.flatten(1).all(1).any():
            raise InputError("mask: expected at least one known pixel in every cue, found a cue without")
        images = self._images("cues", cues.masked_fill(mask, 0))  # missing pixels are often NaN
        return images, mask.to(images.device)
