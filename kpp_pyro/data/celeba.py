"""CelebA, aligned and cropped faces (Liu et al., 2015), from the official files in the places that torchvision uses.

For research only, so nothing is downloaded: https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html has the files.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.data.picture_files import opened_picture
from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import reading
from kpp_pyro.progress import show_progress

FOLDER, PICTURES, PARTITION = "celeba", "img_align_celeba", "list_eval_partition.txt"
SIZES = (32, 64)
_SIDE, _CROP = (178, 218), 148  # width and height of the official pictures, and the side of the middle that is kept
_SPLITS = {"0": "train", "1": "validation", "2": "test"}  # as the partition numbers them
_SOURCE = "CelebA has to be fetched by hand from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


def load_celeba(data_dir: Path, image_size: int = SIZES[0]) -> ImageSplits:
    """Load the pictures of `data_dir`/celeba/img_align_celeba, split by `data_dir`/celeba/list_eval_partition.txt.

    The middle 148x148 pixels of a picture are scaled to `image_size` by the means of the pixels that each new one
    covers. All images are of one class: the people, who are in one split each, are not read.

    Args:
        data_dir: folder of all data sets.
        image_size: H and W.

    Returns:
        uint8 (N, 3, H, W) in the order of the partition: 162,770 training, 19,867 validation and 19,962 test images.

    Raises:
        InputError: a file is missing or invalid. The message names the file, and for the partition the line.
    """
    folder = Path(data_dir) / FOLDER
    names = _partition(folder / PARTITION)
    splits = {split: _read(folder / PICTURES, listed, split, image_size) for split, listed in names.items()}
    return ImageSplits("celeba", **splits)


def _partition(path: Path) -> dict[str, list[str]]:
    """File names of each split. A line is a file name, a space, and the number of its split."""
    names: dict[str, list[str]] = {split: [] for split in _SPLITS.values()}
    with reading(path, f"the partition of CelebA ({_SOURCE})") as file:
        lines = file.read().decode(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        name, _, part = line.strip().partition(" ")
        if Path(name).name != name or part.strip() not in _SPLITS:
            expected = "the name of a picture and 0, 1 or 2"
            raise InputError(f"{path}: expected {expected} in line {number}, found {line!r:.100}")
        names[_SPLITS[part.strip()]].append(name)
    for split, listed in names.items():
        if not listed:
            raise InputError(f"{path}: expected pictures of all three splits, found none for {split}")
    return names


def _read(folder: Path, names: list[str], split: str, image_size: int) -> LabelledImages:
    """The pictures of a split, with a progress bar. Threads decode them: Pillow lets others run meanwhile."""
    images = torch.empty(len(names), 3, image_size, image_size, dtype=torch.uint8)
    paths = [folder / name for name in names]
    with ThreadPoolExecutor() as pool:
        faces = pool.map(partial(_face, image_size=image_size), paths)
        bar = show_progress(faces, f"decoding {split}", total=len(paths), unit="image", leave=False)
        for place, face in enumerate(bar):
            images[place] = torch.from_numpy(face).permute(2, 0, 1)
    return LabelledImages(images, torch.zeros(len(names), dtype=torch.int64))


def _face(path: Path, image_size: int) -> np.ndarray:
    """The middle of a picture, scaled: uint8 (H, W, 3)."""
    with reading(path, "a picture of CelebA") as file, opened_picture(path, file) as picture:
        if picture.size != _SIDE:
            found = " x ".join(map(str, picture.size))
            raise InputError(f"expected {_SIDE[0]} x {_SIDE[1]} pixels, found {found}")
        left, top = ((side - _CROP) // 2 for side in _SIDE)
        middle = picture.convert("RGB").crop((left, top, left + _CROP, top + _CROP))
        return np.array(middle.resize((image_size, image_size), Image.Resampling.BOX))


DATASETS["celeba"] = DataSource(load_celeba, sizes=SIZES, like="cifar10")
