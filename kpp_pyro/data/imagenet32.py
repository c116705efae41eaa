"""ImageNet 32x32, the anti-aliased version of Chrabaszcz et al. (2017, arXiv:1707.08819), scaled by boxes.

The older version of van den Oord et al. (2016) is no longer served. Its images differ, and so do numbers measured on
them: bits per dimension of the two versions do not compare. https://image-net.org/download-images has the files, for
those who have an account there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.data.npz import class_labels, described, read_npz
from kpp_pyro.errors import InputError

FOLDER = "imagenet32"
VALIDATION_IMAGES = 50_000
_TRAINING = [f"train_data_batch_{number}.npz" for number in range(1, 11)]
_TEST = "val_data.npz"
_IMAGE_SHAPE = (3, 32, 32)
_CLASSES = 1000
_VALUES = 3 * 32 * 32  # of an image: red, green and blue, row by row


def load_imagenet32(data_dir: Path) -> ImageSplits:
    """Load `data_dir`/imagenet32/train_data_batch_1.npz to _10.npz and val_data.npz, as they are published.

    Each file has `data`, uint8 (N, 3072), and `labels`, (N,). The images take 3.9 GB of memory, and while they are
    read another 0.4 GB.

    Returns:
        uint8 (N, 3, 32, 32) with labels 1..1000, in the published order: 1,231,167 training images, 50,000 validation
        images (the last of the 1,281,167 published training images) and 50,000 test images (those of val_data.npz).

    Raises:
        InputError: a file is missing or invalid. The message names file and array.
    """
    folder = Path(data_dir) / FOLDER
    training, test = (_read([folder / name for name in names]) for names in (_TRAINING, [_TEST]))
    train, validation = training.split_last(VALIDATION_IMAGES, folder)
    return ImageSplits("imagenet32", train, validation, test)


def _read(paths: list[Path]) -> LabelledImages:
    """The images of some files, in order, each file read into its place: no second copy of all is made."""
    labels = [_labels(path) for path in paths]
    counts = [len(part) for part in labels]
    images = torch.empty(sum(counts), *_IMAGE_SHAPE, dtype=torch.uint8)
    for path, place in zip(paths, images.split(counts), strict=True):
        _read_into(place, path)
    return LabelledImages(images, torch.cat(labels))


def _labels(path: Path) -> Tensor:
    """The classes of a file's images, int64 (N,)."""
    labels = class_labels(path, "labels", read_npz(path, ["labels"])["labels"])
    if len(labels) and not 1 <= labels.min() <= labels.max() <= _CLASSES:
        raise InputError(f"{path}: expected 'labels' from 1 to {_CLASSES}, found others")
    return labels


def _read_into(place: Tensor, path: Path) -> None:
    """Fill uint8 (N, 3, 32, 32) with the images of a file."""
    data = read_npz(path, ["data"])["data"]
    if data.dtype != np.uint8 or data.shape != (len(place), _VALUES):
        expected = f"uint8 ({len(place)}, {_VALUES}), one row for each label"
        raise InputError(f"{path}: expected 'data' to be {expected}, found {described(data)}")
    place.copy_(torch.from_numpy(data).view_as(place))


DATASETS["imagenet32"] = DataSource(load_imagenet32, like="cifar10")
