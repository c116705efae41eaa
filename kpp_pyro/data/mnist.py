"""MNIST and Fashion-MNIST, in the folders that torchvision uses."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.download import download_files
from kpp_pyro.data.idx import read_idx
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.errors import InputError

VALIDATION_IMAGES = 10_000
_PARTS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def load_mnist(data_dir: Path) -> ImageSplits:
    """Load MNIST (LeCun et al., 1998) from `data_dir`/MNIST/raw, or download it there.

    Returns:
        uint8 (N, 1, 28, 28) with labels 0..9, in the published order: 50,000 training, 10,000 validation (the last of
        the 60,000 published training images) and 10,000 test images.

    Raises:
        InputError: a file is missing or invalid, or the download fails. The message names the file.
    """
    return _load("mnist", "MNIST", data_dir)


def load_fashion_mnist(data_dir: Path) -> ImageSplits:
    """Load Fashion-MNIST (Xiao et al., 2017) from `data_dir`/FashionMNIST/raw, or download it; as `load_mnist`."""
    return _load("fashion_mnist", "FashionMNIST", data_dir)


def _load(name: str, source: str, data_dir: Path) -> ImageSplits:
    """Read the four IDX files, plain or gzipped; download them if none exists."""
    raw = Path(data_dir) / source / "raw"
    if not any(_find(raw, stem) for stems in _PARTS.values() for stem in stems):
        _download(raw, source)
    training, test = (_read_pair(raw, *stems) for stems in _PARTS.values())
    if training.image_shape != test.image_shape:
        raise InputError(
            f"{raw / _PARTS['test'][0]}: expected images {training.image_shape} as in {_PARTS['train'][0]}, "
            f"found {test.image_shape}"
        )
    if len(training) <= VALIDATION_IMAGES:
        raise InputError(
            f"{raw / _PARTS['train'][0]}: expected more than the {VALIDATION_IMAGES} images held out for "
            f"validation, found {len(training)}"
        )
    train, validation = training.split_last(VALIDATION_IMAGES)
    return ImageSplits(name, train, validation, test)


def _read_pair(raw: Path, images_stem: str, labels_stem: str) -> LabelledImages:
    images, labels = _read(raw, images_stem), _read(raw, labels_stem)
    if images.ndim != 3:
        raise InputError(f"{raw / images_stem}: expected images (N, H, W), found labels {tuple(images.shape)}")
    if labels.ndim != 1:
        raise InputError(f"{raw / labels_stem}: expected labels (N,), found images {tuple(labels.shape)}")
    if len(images) != len(labels):
        raise InputError(
            f"{raw / labels_stem}: expected {len(images)} labels, one for each of {images_stem}, found {len(labels)}"
        )
    return LabelledImages(images.unsqueeze(1), labels.long())


def _read(raw: Path, stem: str) -> Tensor:
    path = _find(raw, stem)
    if path is None:
        raise InputError(f"{raw / stem}: expected it or {stem}.gz beside the other files, found neither")
    return read_idx(path)


def _find(raw: Path, stem: str) -> Path | None:
    """Path of the file `stem`, or else of `stem`.gz, which is slower to read; None if neither exists,
    in whatever form."""
    return next((path for path in (raw / stem, raw / f"{stem}.gz") if os.path.lexists(path)), None)


def _download(raw: Path, source: str) -> None:
    """Download with torchvision, which tries mirrors and checks MD5 sums; keep only the .gz files."""
    from torchvision import datasets

    data_set = getattr(datasets, source)

    def fetch(temporary: Path) -> Path:
        data_set(str(temporary), download=True)
        return temporary / source / "raw"

    download_files(raw, [filename for filename, _ in data_set.resources], fetch, data_set.mirrors[0])


DATASETS["mnist"] = DataSource(load_mnist, downloads=True)
DATASETS["fashion_mnist"] = DataSource(load_fashion_mnist, downloads=True, like="mnist")
