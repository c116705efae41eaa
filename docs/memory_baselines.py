"""Costs of test images given a code of few bits: principal components, product quantizers, and lossless files.

Components and quantizers are those of training images. A code says what an image is, not which one of an episode: it
pays for no key. `draw_memory_bits.py` plots the costs.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from calibrated_pixels import CalibratedBernoulli, CalibratedLogistic
from PIL import Image
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from inference.runs.config import Config
from inference.runs.rules import binarizations, is_binary
from kpp_pyro.data import (
    USUAL_EPISODE_LENGTH,
    EpisodeSet,
    LabelledImages,
    OptionalBinarization,
    first_images,
    load_dataset,
)
from kpp_pyro.writes.quantization import Quantization

TRAINING_IMAGES = 50_000
QUANTIZED_IMAGES = 20_000  # first training images, from which the quantizers of grey levels are made
FITTED_IMAGES = 5000  # last training images, to which likelihoods are fitted
BITS = (32, 8, 6, 4)  # of a principal component
COMPONENTS = {2: (10, 20, 50, 100, 200, 400), 256: (100, 200, 400, 800, 1600)}  # by the levels of a pixel
REACH = 3  # standard deviations, between which a component is rounded
CENTROIDS = 256  # of a part of the product quantizer
GRIDS = ((2, 2), (4, 2), (7, 2), (14, 2), (28, 2), (28, 3), (28, 4))  # rows and columns of its parts, binary images
PARTS = (50, 100, 200, 400, 800)  # number of its parts, grey levels
AT_ONCE = 1000
STRIP = 500  # images in a file
OPTIONS: dict[str, dict[str, Any]] = {
    "WebP": {"lossless": True, "quality": 100, "method": 4},
    "PNG": {"optimize": True},
}  # of Pillow, for lossless files


class Coded(NamedTuple):
    """Bits of an image's code, and the cost of each test image given its code in nats, (N,)."""

    bits: int
    costs: Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """Images as `evaluate.py` sees them: the order of the test images and their binarization are those of its seed 0.

    Attributes:
        train: levels from 0 to `levels` - 1, uint8 (N, C, H, W).
        test: the same.
        levels: 2 for binary images, otherwise 256.
    """

    train: Tensor
    test: Tensor
    levels: int

    @classmethod
    def load(cls, dataset: str, data_dir: Path, limit: int) -> Images:
        """Load a data set, and the first `limit` of its test images.

        Raises:
            InputError: a data set that cannot be loaded.
        """
        splits = load_dataset(dataset, data_dir)
        config = Config.preset(dataset)
        of_training, of_test = binarizations(config)
        train = first_levels(splits.train, of_training, config.data.classes_per_episode, TRAINING_IMAGES)
        test = first_levels(splits.test, of_test, config.data.classes_per_episode, limit)
        return cls(train, test, 2 if is_binary(config) else 256)


def first_levels(images: LabelledImages, how: OptionalBinarization, classes: int | None, count: int) -> Tensor:
    """Levels of the first images in the episodes of evaluate.py, uint8 (N, C, H, W): 0 and 1, or 0 to 255."""
    episodes = EpisodeSet(images, USUAL_EPISODE_LENGTH, how, classes_per_episode=classes)
    highest = 255 if how == "none" else 1
    batches = first_images(episodes.batches(USUAL_EPISODE_LENGTH), count)
    return torch.cat([(batch[counted] * highest).round().byte() for batch, counted in batches])


def curves(images: Images) -> Iterator[tuple[str, list[Coded]]]:
    """The curves of principal components and of the product quantizer, by name."""
    components = Components.of(images.train)
    for bits in BITS:
        yield f"principal components, {bits} bits a component", of_components(images, components, bits)
    yield "product quantizer", list(of_patches(images) if images.levels == 2 else of_parts(images, components))


@dataclass(frozen=True)
class Components:
    """Principal components of images.

    Attributes:
        mean: (D,), D = C H W.
        directions: orthonormal, the largest variance first, (D, D).
        deviations: standard deviations of the components, (D,).
    """

    mean: Tensor
    directions: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, train: Tensor) -> Components:
        """The components of images (N, C, H, W)."""
        total, products = torch.zeros(()), torch.zeros(())
        for images in train.split(10 * AT_ONCE):
            pixels = images.flatten(1).double()
            total, products = total + pixels.sum(0), products + pixels.T @ pixels
        mean = total / len(train)
        variances, directions = torch.linalg.eigh(products / len(train) - mean.outer(mean))
        return cls(mean.float(), directions.flip(1).float(), variances.flip(0).clamp(min=0).sqrt().float())

    def encode(self, images: Tensor) -> Tensor:
        """Components (N, D) of images (N, C, H, W)."""
        return (images.flatten(1).float() - self.mean) @ self.directions

    def decode(self, components: Tensor) -> Tensor:
        """Reconstructions (N, D), from the first components (N, K)."""
        return self.mean + components @ self.directions[:, : components.shape[1]].T


def of_components(images: Images, components: Components, bits: int) -> list[Coded]:
    """Costs given the first principal components, each of them rounded to a number of bits; 32 bits are a float."""
    counts = [count for count in COMPONENTS[images.levels] if count <= len(components.mean)]
    reconstructions = {count: partial(rounded, components=components, count=count, bits=bits) for count in counts}
    return [Coded(bits * count, costs_of(images, found)) for count, found in reconstructions.items()]


def rounded(images: Tensor, components: Components, count: int, bits: int) -> Tensor:
    """Reconstructions (N, D) from a number of rounded components.

    A component is cut at `REACH` standard deviations, and rounded between its largest absolute value among the images
    and the negative of it, which are not counted as bits of an image.
    """
    found = components.encode(images)[:, :count]
    if bits < 32:
        reach = REACH * components.deviations[:count]
        found = Quantization(bits)(found.clamp(-reach, reach).T, images).T
    return components.decode(found)


def costs_of(images: Images, reconstruct: Callable[[Tensor], Tensor]) -> Tensor:
    """Costs of test images given their reconstructions, in nats, (N,)."""
    likelihood = CalibratedBernoulli if images.levels == 2 else CalibratedLogistic
    fitted = images.train[-FITTED_IMAGES:]
    calibrated = likelihood.fit(fitted.flatten(1).float(), reconstruct(fitted))
    levels, reconstructions = images.test.flatten(1).float(), reconstruct(images.test)
    parts = zip(levels.split(AT_ONCE), reconstructions.split(AT_ONCE), strict=True)
    return torch.cat([calibrated.costs(*part) for part in parts])


def of_patches(images: Images) -> Iterator[Coded]:
    """Costs of binary images given the product quantizer of their patches (Jegou, Douze & Schmid 2011)."""
    height, width = images.train.shape[-2:]
    numbers = torch.arange(height * width).view(height, width)
    train, test = images.train.flatten(1).float(), images.test.flatten(1).float()
    for rows, columns in GRIDS:
        if rows <= height and columns <= width:
            patches = [patch.flatten() for row in numbers.tensor_split(rows) for patch in row.tensor_split(columns, 1)]
            coded = [of_patch(train[:, patch], test[:, patch]) for patch in patches]
            yield Coded(sum(part.bits for part in coded), torch.stack([part.costs for part in coded]).sum(0))


def of_patch(train: Tensor, test: Tensor) -> Coded:
    """Costs of a patch of test images, each with the code of least cost, from training and test patches (N, F).

    The probability of a pixel is its mean over the training patches with this code, and one patch more: the mean patch.
    """
    distinct, code = train.unique(dim=0, return_inverse=True)
    if len(distinct) > CENTROIDS:
        code = torch.from_numpy(k_means(train).labels_).long()
    counts = code.bincount()
    ones = train.new_zeros(len(counts), train.shape[1]).index_add(0, code, train)
    mean = (train.sum(0) + 0.5) / (len(train) + 1)
    probability = (ones + mean) / (counts.unsqueeze(1) + 1)
    costs = -(test @ probability.log().T + (1 - test) @ (-probability).log1p().T)  # (N, codes)
    return Coded(bits_of(len(counts)), costs.amin(1))


def of_parts(images: Images, components: Components) -> Iterator[Coded]:
    """Costs of images given the product quantizer of parts of their components, which have about the same variance."""
    train = components.encode(images.train[:-FITTED_IMAGES][:QUANTIZED_IMAGES])
    for parts in PARTS:
        quantizers = {part: k_means(train[:, part]) for part in balanced(components.deviations.square(), parts)}
        costs = costs_of(images, partial(quantized, components=components, quantizers=quantizers))
        yield Coded(sum(bits_of(quantizer.n_clusters) for quantizer in quantizers.values()), costs)


def quantized(images: Tensor, components: Components, quantizers: Mapping[Any, MiniBatchKMeans]) -> Tensor:
    """Reconstructions (N, D) from the nearest centroid of each part of the components."""
    encoded = components.encode(images)
    found = torch.zeros_like(encoded)
    for part, quantizer in quantizers.items():
        codes = quantizer.predict(encoded[:, part].numpy())
        found[:, part] = torch.from_numpy(quantizer.cluster_centers_[codes])
    return components.decode(found)


def balanced(sizes: Tensor, parts: int) -> list[tuple[int, ...]]:
    """Numbers of the sizes in parts of about the same total: one after the other goes to the smallest part so far."""
    heap: list[tuple[float, int, tuple[int, ...]]] = [(0.0, part, ()) for part in range(parts)]
    for number, size in enumerate(sizes.tolist()):
        total, part, members = heap[0]
        heapq.heapreplace(heap, (total + size, part, (*members, number)))
    return [members for _, _, members in heap if members]


def k_means(features: Tensor) -> MiniBatchKMeans:
    """k-means of features (N, F)."""
    return MiniBatchKMeans(min(CENTROIDS, len(features)), n_init=1, max_iter=1, random_state=0).fit(features.numpy())


def bits_of(codes: int) -> int:
    """Bits of a number from 0 to `codes` - 1."""
    return (codes - 1).bit_length()


def of_files(images: Images, name: str) -> float:
    """Bits per image of lossless files of `STRIP` images each."""
    size = 0
    for strip in images.test.split(STRIP):
        levels = (strip * (255 // (images.levels - 1))).permute(0, 2, 3, 1).flatten(0, 1)  # (N H, W, C)
        picture, file = Image.fromarray(levels.squeeze(-1).numpy()), io.BytesIO()
        (picture.convert("1") if images.levels == 2 else picture).save(file, name, **OPTIONS[name])
        size += 8 * len(file.getvalue())
    return size / len(images.test)
