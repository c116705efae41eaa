"""The 1,797 handwritten digits of scikit-learn: no download, for tests and first runs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.images import ImageSplits, LabelledImages

SIZE_PIXELS = 16
SPLIT_SEED = 0
_LARGEST_VALUE = 16
_CONTRAST = 4.0  # sharpens edges: each 8x8 pixel counts the black pixels in a 4x4 block of a bitmap


def load_digits(data_dir: Path) -> ImageSplits:
    """Load the digits, resized from 8x8 to 16x16 (bicubic, contrast raised): uint8 (N, 1, 16, 16), labels 0..9.

    scikit-learn does not split them. After one shuffle with `SPLIT_SEED`, the last fifth (359) is the test set, the
    last tenth of the rest (143) is the validation set, and the other 1,295 images are the training set.

    Args:
        data_dir: not used, since the images are part of scikit-learn.
    """
    table = torch.from_numpy(np.loadtxt(_file(), delimiter=","))  # (N, 65): 64 pixels and the label
    values, labels = table[:, :-1], table[:, -1].long()
    grey = values.reshape(-1, 1, 8, 8) / _LARGEST_VALUE
    grey = interpolate(grey, size=(SIZE_PIXELS, SIZE_PIXELS), mode="bicubic", align_corners=False)
    grey = (grey - 0.5) * _CONTRAST + 0.5
    images = (grey.clamp(0, 1) * 255).round().to(torch.uint8)  # (N, 1, 16, 16)
    digits = LabelledImages(images, labels).shuffled(SPLIT_SEED)
    rest, test = digits.split_last(len(digits) // 5)
    train, validation = rest.split_last(len(rest) // 10)
    return ImageSplits("digits", train, validation, test)


def _file() -> Path:
    """The file that scikit-learn reads; to import scikit-learn takes longer than a hundred steps of training."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None  # a dependency
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


DATASETS["digits"] = DataSource(load_digits, reads_data_dir=False)
