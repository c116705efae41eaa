"""celeba32, a stand-in for CelebA: 5,000 of its aligned faces, 32x32, of the official training partition.

For research only, as CelebA itself. The same person may occur in training and test. The whole of CelebA is `celeba.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.data.npz import channels_last_images, read_npz

FILE_NAME = "celeba32.npz"
_PARTS = ("train", "test")


def load_celeba32(data_dir: Path) -> ImageSplits:
    """Load the faces of `data_dir`/celeba32.npz: `train` and `test`.

    The validation set is the last tenth of the training images. All images are of one class.

    Returns:
        uint8 (N, 3, 32, 32): 3,600 training, 400 validation and 1,000 test images.

    Raises:
        InputError: the file is missing or invalid. The message names file and array.
    """
    path = Path(data_dir) / FILE_NAME
    arrays = read_npz(path, _PARTS)
    images = [channels_last_images(path, part, arrays[part]) for part in _PARTS]
    training, test = (LabelledImages(part, torch.zeros(len(part), dtype=torch.int64)) for part in images)
    train, validation = training.split_last(max(1, len(training) // 10), path)
    return ImageSplits("celeba32", train, validation, test)


DATASETS["celeba32"] = DataSource(load_celeba32, like="cifar10")
