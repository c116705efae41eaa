"""The data set `array`: images of one's own in a NumPy file, .npy or .npz. It is never unpickled.

| arrays of an .npz file | labels, optional | splits |
|---|---|---|
| `images`, or one array without a name (`arr_0`) | `labels` | held out, as of a folder without train/ |
| `train`, `test`, `validation` | `train_labels`, ... | those that are missing are held out of `train` |
| `x_train`, `x_test`, `x_validation`, as in Keras | `y_train`, ... | those that are missing are held out of `x_train` |

An .npy file is one array of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.data.notes import print_above_bars
from kpp_pyro.data.npz import array_names, class_labels, described, read_npy, read_npz
from kpp_pyro.data.picture_files import fitted
from kpp_pyro.data.repeats import contents_of_images
from kpp_pyro.data.splitting import SPLITS, complete_splits
from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import reading

_EXPECTED = "an .npy or .npz file of images"
_NPY, _NPZ = b"\x93NUMPY", b"PK\x03\x04"  # how the files begin
_ONE = ("images", "arr_0")  # names of an array without splits
_SEVERAL = (("{}", "{}_labels"), ("x_{}", "y_{}"))  # names of the images of a split, and of their labels
_AT_ONCE = 1024  # images that are converted at once; bounds the memory in use
_SMALLEST_SIDE = 8  # pixels
_CHANNELS = (1, 3)


def load_array(
    path: Path, image_size: int | None = None, test_share: float | None = None, dark_on_light: bool = False
) -> ImageSplits:
    """Load the images of a NumPy file; see the top of this file for the names of arrays.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3, of type uint8 or bool, or floats in [0, 1].
    Notes on stderr say how many images each split has if some were held out, and whether images repeat or are scaled.

    Args:
        path: the file.
        image_size: scale the images so that the shorter side has so many pixels, and crop them to the centre; None:
            their own size.
        test_share: share of the images to hold out for the test; None: see `held_out_count`.
        dark_on_light: invert the intensities.

    Raises:
        InputError: the file is missing or invalid, has too few images, or has test images and a test share is given.
    """
    found = {
        split: LabelledImages(_images(path, name, array, image_size, dark_on_light), labels)
        for split, (name, array, labels) in _arrays(path).items()
    }
    contents = contents_of_images({split: images.images for split, images in found.items()})
    parts = complete_splits(contents, path, test_share)
    return ImageSplits(str(path), **{split: found[source].select(index) for split, (source, index) in parts.items()})


def _arrays(path: Path) -> dict[str, tuple[str, np.ndarray, Tensor]]:
    """The name of the array of images, the array, and the labels (N,), by split; one class where there are none."""
    with reading(path, _EXPECTED) as file:
        begin = file.read(len(_NPY))
    if begin == _NPY:
        array = read_npy(path)
        return {"train": ("the array", array, _no_labels(array))}
    if not begin.startswith(_NPZ):
        raise InputError(f"{path}: expected {_EXPECTED}, found another one")
    present = array_names(path)
    names = _names_of_splits(path, present)
    content = read_npz(path, [name for both in names.values() for name in both if name in present])
    return {
        split: (
            name,
            content[name],
            _labels(path, label, content[label], len(content[name])) if label in content else _no_labels(content[name]),
        )
        for split, (name, label) in names.items()
    }


def _labels(path: Path, name: str, array: np.ndarray, count: int) -> Tensor:
    """Class numbers of an array (N,) or (N, 1): int64 (N,)."""
    return class_labels(path, name, array[:, 0] if array.shape == (count, 1) else array, count)


def _names_of_splits(path: Path, present: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Names of the images and of their labels, by split."""
    one = [{"train": (name, "labels")} for name in _ONE]
    several = [{split: (images.format(split), labels.format(split)) for split in SPLITS} for images, labels in _SEVERAL]
    known = [names for names in (*one, *several) if names["train"][0] in present]
    if len(known) == 1:
        return {split: both for split, both in known[0].items() if both[0] in present}
    expected = ", ".join(names["train"][0] for names in (*one, *several))
    found = ", ".join(names["train"][0] for names in known) or ", ".join(present) or "no arrays at all"
    raise InputError(f"{path}: expected an array of training images, one of {expected}, found {found:.200}")


def _images(path: Path, name: str, array: np.ndarray, image_size: int | None, dark_on_light: bool) -> Tensor:
    """Images of an array: uint8 (N, C, H, W)."""
    array = _channels_first(path, name, array)
    count, channels, height, width = array.shape
    shape = (height, width) if image_size is None else (image_size, image_size)
    if shape != (height, width):
        print_above_bars(
            f"note: {path}: images of {height}x{width} pixels are scaled to {shape[0]}x{shape[1]} (--image-size)"
        )
    images, largest = torch.empty(count, channels, *shape, dtype=torch.uint8), 0
    for start in range(0, count, _AT_ONCE):
        levels = _levels(path, name, array[start : start + _AT_ONCE])
        largest = max(largest, levels.max())
        images[start : start + _AT_ONCE] = torch.from_numpy(_scaled(levels, shape))
    if array.dtype == np.uint8 and largest == 1:
        raise InputError(f"{path}: expected uint8 from 0 to 255 in {name}, found 0 and 1 alone; save them as bool")
    return 255 - images if dark_on_light else images


def _channels_first(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """The array as (N, C, H, W)."""
    planes = array[:, None] if array.ndim == 3 else array
    if planes.ndim == 4 and planes.shape[1] not in _CHANNELS:
        planes = np.moveaxis(planes, -1, 1)
    is_shape = planes.ndim == 4 and len(planes) and planes.shape[1] in _CHANNELS
    if (
        not is_shape
        or min(planes.shape[2:]) < _SMALLEST_SIDE
        or not (array.dtype.kind in "bf" or array.dtype == np.uint8)
    ):
        expected = (
            f"uint8, bool or floats of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3 and sides of "
            f"at least {_SMALLEST_SIDE} pixels"
        )
        raise InputError(f"{path}: expected {name} to be {expected}, found {described(array)}")
    return planes


def _levels(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """Levels from 0 to 255, rounded or not: of whole numbers as they are, of bool and floats 255 times as large."""
    if values.dtype == np.uint8:
        return values
    if not (values.min() >= 0 and values.max() <= 1):
        found = f"{float(values.min()):g} to {float(values.max()):g}"
        raise InputError(f"{path}: expected floats in [0, 1], or uint8 from 0 to 255, in {name}, found {found}")
    return values.astype(np.float32) * 255


def _scaled(levels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Levels (n, C, h, w), scaled and cropped to another height and width if they have others, rounded: uint8."""
    if levels.shape[2:] != shape:
        levels = np.stack([[fitted(plane.astype(np.float32), *shape) for plane in image] for image in levels])
    return levels.round().clip(0, 255).astype(np.uint8)


def _no_labels(array: np.ndarray) -> Tensor:
    """Labels of images of one class, (N,)."""
    return torch.zeros(len(array) if array.ndim else 0, dtype=torch.int64)


DATASETS["array"] = DataSource(load_array, own=True)
