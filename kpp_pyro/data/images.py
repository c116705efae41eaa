"""Images with class labels, and the three splits of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from kpp_pyro.errors import InputError

_CHANNELS = 3  # of an image in colour
_AT_ONCE = 8192  # images that are made grey at once; bounds the memory in use


@dataclass(frozen=True)
class Origin:
    """Where images come from, for messages.

    Attributes:
        name: noun phrase, such as "the validation tenth of pictures/train".
        remedy: what to give where there are too few images for an episode.
    """

    name: str = "the set"
    remedy: str = "a shorter episode"

    @classmethod
    def of_split(cls, split: str, source: object, remedy: str = "a shorter episode") -> Origin:
        """The origin of the images of a split of a source: "train", "validation" or "test"."""
        return cls(f"the {'training' if split == 'train' else split} split of {source}", remedy)


SOME_SET = Origin()
"""The origin of images that do not say theirs."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Grey or colour images with one class label each, on one device.

    Attributes:
        images: intensities 0..255, uint8 (N, C, H, W).
        labels: class numbers, int64 (N,).
        origin: of the images.

    Raises:
        InputError: a type, a shape, the number of labels or the device is wrong.
    """

    images: Tensor
    labels: Tensor
    origin: Origin = SOME_SET

    def __post_init__(self) -> None:
        """Check types, shapes and devices."""
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise InputError(f"images: expected a uint8 tensor (N, C, H, W), found {_describe(self.images)}")
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise InputError(f"labels: expected an int64 tensor (N,), found {_describe(self.labels)}")
        if len(self.images) != len(self.labels):
            raise InputError(f"labels: expected one for each of {len(self.images)} images, found {len(self.labels)}")
        if self.images.device != self.labels.device:
            raise InputError(f"labels: expected on the images' device {self.images.device}, found {self.labels.device}")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def dense_classes(self) -> Tensor:
        """Labels renumbered 0, 1, 2, ... without gaps, int64 (N,)."""
        return self.labels.unique(return_inverse=True)[1]

    def to(self, device: torch.device | str) -> LabelledImages:
        """The same images on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def select(self, index: Tensor | slice) -> LabelledImages:
        """The images at `index`, an int64 or bool tensor or a slice."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def grey(self) -> LabelledImages:
        """The images with one channel: ITU-R 601 luma, rounded as in PIL's mode L; the same images if they are grey.

        Raises:
            InputError: neither one channel nor three.
        """
        if self.image_shape[0] == 1:
            return self
        if self.image_shape[0] != _CHANNELS:
            raise InputError(f"images: expected 1 or {_CHANNELS} channels, found {self.image_shape[0]}")
        parts = self.images.split(_AT_ONCE)
        return replace(self, images=torch.cat([_luma(part) for part in parts]))

    def shuffled(self, seed: int) -> LabelledImages:
        """All images in a random order, which depends on the seed alone and not on the device."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.select(order.to(self.images.device))

    def split_last(self, count: int, where: str | Path = "images") -> tuple[LabelledImages, LabelledImages]:
        """All but the last `count` images, and the last `count` images, at least one.

        Args:
            count: number of images to split off.
            where: where the images are from, for the message.

        Raises:
            InputError: one of the two parts would be empty.
        """
        if not 0 < count < len(self):
            raise InputError(f"{where}: expected more than the {count} images to be split off, found {len(self)}")
        return self.select(slice(0, len(self) - count)), self.select(slice(len(self) - count, None))


@dataclass(frozen=True, eq=False)
class ImageSplits:
    """The disjoint training, validation and test images of a data set.

    Raises:
        InputError: a split has images of another shape.
    """

    name: str
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages

    def __post_init__(self) -> None:
        """Check that all images have one shape."""
        for split in ("validation", "test"):
            expected, found = self.train.image_shape, getattr(self, split).image_shape
            if found != expected:
                raise InputError(
                    f"{self.name}: expected {split} images {expected} like those of training, found {found}"
                )


def _luma(images: Tensor) -> Tensor:
    """Luma of RGB images, uint8 (n, 3, H, W) to (n, 1, H, W)."""
    red, green, blue = images.int().split(1, dim=1)  # (n, 1, H, W)
    # The weights 0.299, 0.587 and 0.114 in units of 2^-16, and a half to round, as in PIL.
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).byte()


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
