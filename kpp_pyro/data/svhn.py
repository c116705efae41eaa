"""SVHN, house numbers in street views, cropped to their digits (http://ufldl.stanford.edu/housenumbers)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.download import download_files
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.data.mat import read_mat, require_key
from kpp_pyro.errors import InputError

URL = "http://ufldl.stanford.edu/housenumbers"
MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
FOLDER = "SVHN"
VALIDATION_IMAGES = 5_000
_LARGEST_LABEL = 10  # how the files label the digit 0


def load_svhn(data_dir: Path) -> ImageSplits:
    """Load SVHN (Netzer et al., 2011) from `data_dir`/SVHN, or download it there, without its extra images.

    Returns:
        uint8 (N, 3, 32, 32) with labels 0..9, in the published order: 68,257 training, 5,000 validation (the last of
        the 73,257 published training images) and 26,032 test images.

    Raises:
        InputError: a file is missing or invalid, or the download fails. The message names file and key.
    """
    folder = Path(data_dir) / FOLDER
    if not any(os.path.lexists(folder / name) for name in MD5):
        download_files(folder, list(MD5), _fetch, URL)
    training, test = (_read(folder / name) for name in MD5)
    train, validation = training.split_last(VALIDATION_IMAGES, folder)
    return ImageSplits("svhn", train, validation, test)


def _fetch(temporary: Path) -> Path:
    from torchvision.datasets.utils import download_url

    for name, md5 in MD5.items():
        download_url(f"{URL}/{name}", str(temporary), name, md5)
    return temporary


def _read(path: Path) -> LabelledImages:
    """Images of `X`, (32, 32, 3, N), and labels of `y`, (N, 1)."""
    content = read_mat(path, ["X", "y"])
    for key in ("X", "y"):
        require_key(path, content, key)
    pixels, labels = (np.asarray(content[key]) for key in ("X", "y"))
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or pixels.size == 0:
        raise InputError(f"{path}: expected 'X' to be uint8 (32, 32, 3, N), found {pixels.dtype} {pixels.shape}")
    count = pixels.shape[-1]
    if labels.dtype.kind not in "iu" or labels.shape != (count, 1):
        raise InputError(f"{path}: expected 'y' to be whole numbers ({count}, 1), found {labels.dtype} {labels.shape}")
    if labels.min() < 1 or labels.max() > _LARGEST_LABEL:
        raise InputError(f"{path}: expected labels from 1 to {_LARGEST_LABEL} in 'y', found others")
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))
    return LabelledImages(images, torch.from_numpy(labels[:, 0].astype(np.int64)) % _LARGEST_LABEL)


DATASETS["svhn"] = DataSource(load_svhn, downloads=True, like="cifar10")
