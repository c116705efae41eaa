"""CIFAR-10, the published binary version (https://www.cs.toronto.edu/~kriz/cifar.html); its pickles are never read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.download import download_files, from_archive
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import reading

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
IMAGES_PER_FILE = 10_000
VALIDATION_IMAGES = 5_000
_TRAINING = [f"data_batch_{number}.bin" for number in range(1, 6)]
_TEST = "test_batch.bin"
_IMAGE_SHAPE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32  # a label, then 1,024 red, 1,024 green and 1,024 blue bytes, row by row
_CLASSES = 10


def load_cifar10(data_dir: Path) -> ImageSplits:
    """Load CIFAR-10 (Krizhevsky, 2009) from `data_dir`/cifar-10-batches-bin, or download it there.

    Returns:
        uint8 (N, 3, 32, 32) with labels 0..9, in the published order: 45,000 training, 5,000 validation (the last of
        the 50,000 published training images) and 10,000 test images.

    Raises:
        InputError: a file is missing or invalid, or the download fails. The message names the file.
    """
    folder, names = Path(data_dir) / FOLDER, [*_TRAINING, _TEST]
    if not any(os.path.lexists(folder / name) for name in names):
        download_files(folder, names, from_archive(URL, MD5, [f"{FOLDER}/{name}" for name in names]), URL)
    training, test = (_read(folder, part) for part in (_TRAINING, [_TEST]))
    train, validation = training.split_last(VALIDATION_IMAGES, folder)
    return ImageSplits("cifar10", train, validation, test)


def _read(folder: Path, names: list[str]) -> LabelledImages:
    """The images of some files, in order."""
    records = np.concatenate([_records(folder / name) for name in names])  # (N, 3073)
    images = torch.from_numpy(records[:, 1:].copy()).view(-1, *_IMAGE_SHAPE)
    return LabelledImages(images, torch.from_numpy(records[:, 0]).long())


def _records(path: Path) -> np.ndarray:
    """The records of a file, uint8 (IMAGES_PER_FILE, 3073)."""
    expected = IMAGES_PER_FILE * _RECORD_BYTES
    with reading(path, f"{IMAGES_PER_FILE} images of CIFAR-10 (binary version)") as file:
        size = os.fstat(file.fileno()).st_size
        if size != expected:
            raise InputError(f"{path}: expected {expected} bytes, {IMAGES_PER_FILE} images, found {size}")
        records = np.frombuffer(file.read(expected), np.uint8).reshape(-1, _RECORD_BYTES)
    if records[:, 0].max() >= _CLASSES:
        raise InputError(f"{path}: expected labels from 0 to {_CLASSES - 1}, found {records[:, 0].max()}")
    return records


DATASETS["cifar10"] = DataSource(load_cifar10, downloads=True)
