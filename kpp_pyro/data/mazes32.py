"""mazes32, a stand-in for the frames of DeepMind Lab mazes, which the paper uses and which cannot be had.

First-person frames of 300 mazes of labmaze 1.0.6, the maze generator of DeepMind Lab, drawn with its textures by MuJoCo
and averaged from 128x128 to 32x32. No figure measured on them compares with a published one.
"""

from __future__ import annotations

from pathlib import Path

import torch

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.data.npz import channels_last_images, class_labels, read_npz
from kpp_pyro.errors import InputError

FILE_NAME = "mazes32.npz"
VALIDATION_MAZES = 25
_PARTS = ("train", "test")


def load_mazes32(data_dir: Path) -> ImageSplits:
    """Load the frames of `data_dir`/mazes32.npz: `train` and `test`, `train_labels` and `test_labels`.

    A class is a maze, so that one class per episode is one maze per episode. No maze is in two splits. The validation
    set is the frames of the last `VALIDATION_MAZES` training mazes.

    Returns:
        uint8 (N, 3, 32, 32): 9,000 training frames of 225 mazes, 1,000 validation frames of 25, 2,000 test frames of
        50, 40 of each maze.

    Raises:
        InputError: the file is missing or invalid, or a maze is in both parts. The message names file and array.
    """
    path = Path(data_dir) / FILE_NAME
    arrays = read_npz(path, [*_PARTS, *(f"{part}_labels" for part in _PARTS)])
    images = {part: channels_last_images(path, part, arrays[part]) for part in _PARTS}
    names = {part: f"{part}_labels" for part in _PARTS}
    labels = {part: class_labels(path, names[part], arrays[names[part]], len(images[part])) for part in _PARTS}
    training, test = (LabelledImages(images[part], labels[part]) for part in _PARTS)
    shared = torch.isin(training.labels, test.labels)
    if shared.any():
        raise InputError(f"{path}: expected mazes in 'train' or in 'test', found {training.labels[shared][0]} in both")
    mazes = training.labels.unique()  # sorted
    if len(mazes) <= VALIDATION_MAZES:
        raise InputError(
            f"{path}: expected more than the {VALIDATION_MAZES} mazes held out for validation in 'train', "
            f"found {len(mazes)}"
        )
    held_out = torch.isin(training.labels, mazes[-VALIDATION_MAZES:])
    return ImageSplits("mazes32", training.select(~held_out), training.select(held_out), test)


DATASETS["mazes32"] = DataSource(load_mazes32, like="cifar10")
