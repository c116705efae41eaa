"""Omniglot, 28x28, with the split of Burda et al., Importance Weighted Autoencoders (arXiv:1509.00519)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.download import download_files
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.data.mat import read_mat, require_key
from kpp_pyro.errors import InputError

URL = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"
FILE_NAME = "chardata.mat"
SIZE_PIXELS = 28
SPLIT_SEED = 0
_PIXELS = ("data", "testdata")
_ALPHABET = ("target", "testtarget")
_CHARACTER = ("targetchar", "testtargetchar")
_MOST_CHARACTERS = 10**6  # of an alphabet
_KEYS = (*_PIXELS, *_ALPHABET, *_CHARACTER)


def load_omniglot(data_dir: Path) -> ImageSplits:
    """Load Omniglot (Lake et al., 2015) from `data_dir`/OMNIGLOT/chardata.mat, or download it there.

    A class is a character: a pair of an alphabet and a character in it. Classes are numbered from 0 over training and
    test images together. The validation set is the last tenth of the training images after one shuffle with
    `SPLIT_SEED`.

    Returns:
        uint8 (N, 1, 28, 28), bright strokes on a dark background.

    Raises:
        InputError: the file cannot be downloaded, or has not the layout of Burda et al. The message names file and key.
    """
    path = Path(data_dir) / "OMNIGLOT" / FILE_NAME
    if not os.path.lexists(path):
        download_files(path.parent, [FILE_NAME], _fetch, URL)
    arrays = _read_mat(path)
    images = [_images(path, arrays, key) for key in _PIXELS]
    counts = [len(part) for part in images]
    labels = _characters(path, arrays, counts).split(counts)
    training, test = (LabelledImages(*part) for part in zip(images, labels, strict=True))
    if len(training) < 10:
        raise InputError(f"{path}: expected 10 images or more in 'data', to hold a tenth out, found {counts[0]}")
    train, validation = training.shuffled(SPLIT_SEED).split_last(len(training) // 10)
    return ImageSplits("omniglot", train, validation, test)


def _fetch(temporary: Path) -> Path:
    from torchvision.datasets.utils import download_url

    download_url(URL, str(temporary), FILE_NAME)
    return temporary


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    """The six arrays of the file, each two-dimensional and numeric."""
    content = read_mat(path, _KEYS)
    arrays = {}
    for key in _KEYS:
        require_key(path, content, key)
        arrays[key] = np.asarray(content[key])
        if arrays[key].ndim != 2 or arrays[key].dtype.kind not in "buif":
            raise InputError(f"{path}: expected '{key}' to be a matrix of numbers, found {_describe(arrays[key])}")
    return arrays


def _images(path: Path, arrays: dict[str, np.ndarray], key: str) -> Tensor:
    """Images, uint8 (N, 1, 28, 28), from columns of intensities in [0, 1] in Fortran order."""
    columns = arrays[key]  # (784, N)
    if columns.shape[0] != SIZE_PIXELS**2 or columns.shape[1] == 0:
        raise InputError(f"{path}: expected '{key}' to be ({SIZE_PIXELS**2}, N), found {_describe(columns)}")
    if not (columns.min() >= 0 and columns.max() <= 1):  # refuses NaN, too
        raise InputError(
            f"{path}: expected '{key}' to hold numbers in [0, 1], found {columns.min()} to {columns.max()}"
        )
    grey = torch.from_numpy(np.rint(columns.T * 255.0).astype(np.uint8))  # (N, 784)
    # Fortran order is column by column, so rows and columns are swapped.
    return grey.reshape(-1, 1, SIZE_PIXELS, SIZE_PIXELS).transpose(-1, -2).contiguous()


def _characters(path: Path, arrays: dict[str, np.ndarray], counts: list[int]) -> Tensor:
    """Class numbers, int64 (N_train + N_test,): one for each pair of alphabet and character."""
    pairs = []
    for alphabet_key, character_key, count in zip(_ALPHABET, _CHARACTER, counts, strict=True):
        alphabet, character = arrays[alphabet_key] != 0, arrays[character_key]  # (A, N), (1, N)
        if alphabet.shape[1] != count:
            raise InputError(f"{path}: expected '{alphabet_key}' to be (A, {count}), found {alphabet.shape}")
        if not (alphabet.sum(0) == 1).all():
            raise InputError(f"{path}: expected '{alphabet_key}' to have one-hot columns, found others")
        if character.shape != (1, count):
            raise InputError(f"{path}: expected '{character_key}' to be (1, {count}), found {character.shape}")
        if not ((abs(character) <= _MOST_CHARACTERS) & (character == np.rint(character))).all():
            raise InputError(f"{path}: expected '{character_key}' to hold whole numbers, found others")
        pairs.append(np.stack([alphabet.argmax(0), character[0].astype(np.int64)]))
    _, labels = np.unique(np.concatenate(pairs, axis=1), axis=1, return_inverse=True)
    return torch.from_numpy(labels.reshape(-1)).long()


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


DATASETS["omniglot"] = DataSource(load_omniglot, downloads=True)
