"""What the scripts that take one's own pictures share."""

from __future__ import annotations

from torch import Tensor

from inference.collection.collection import Collection
from inference.trained_memory import TrainedMemory
from kpp_pyro.likelihoods.bernoulli import binarize


def for_model(images: Tensor, trained: TrainedMemory) -> Tensor:
    """Images (n, C, H, W) with intensities in [0, 1] as a model takes them: binary for a model of binary images."""
    return binarize(images, "threshold") if trained.distance.binary else images


def describe_size(collection: Collection) -> str:
    """How many pictures a collection has, and in how many memories of which capacity, in words."""
    pictures = f"{len(collection):,} picture{'s' * (len(collection) != 1)}"
    memories = f"{collection.memories:,} memor{'y' if collection.memories == 1 else 'ies'}"
    return f"{pictures} in {memories} of {collection.capacity}"
