"""A folder of pictures as images that a model can take."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as transforms

from kpp_pyro.errors import InputError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".webp"}


def read_pictures(folder: Path | str, image_shape: tuple[int, int, int], dark_on_light: bool = False) -> Tensor:
    """Read every picture of a folder, in the order of the file names.

    Pictures are made grey, scaled until their shorter side fits, and cut to the middle.

    Args:
        folder: where the files are (.png, .jpg, .gif, .webp); others are left alone.
        image_shape: (1, H, W) of the model.
        dark_on_light: swap black and white; the models are trained on light strokes on a dark ground.

    Returns:
        Intensities (N, 1, H, W) in [0, 1]; for models of binary images, pass them through `binarize`.

    Raises:
        InputError: no such folder, no picture in it, one that cannot be read, or a model of colour images.
    """
    folder = Path(folder)
    if image_shape[0] != 1:
        raise InputError(f"image shape: expected one channel, found {image_shape[0]}")
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of pictures, found no folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"{folder}: expected pictures ({', '.join(sorted(_SUFFIXES))}), found none")
    images = torch.stack([_read(path, image_shape[1:]) for path in files])
    return 1 - images if dark_on_light else images


def _read(path: Path, size: tuple[int, int]) -> Tensor:
    try:
        pixels = decode_image(str(path), mode=ImageReadMode.GRAY, apply_exif_orientation=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: expected a picture, found a file that cannot be decoded ({reason})") from error
    pixels = pixels if pixels.ndim == 3 else pixels[0]  # an animation: its first picture
    pixels = pixels.float() / torch.iinfo(pixels.dtype).max  # of 8 or 16 bits
    if len(pixels) > 1:  # what has no grey form of its own (.gif, .webp), and perhaps an alpha channel
        pixels = transforms.rgb_to_grayscale(pixels[:3])
    height, width = pixels.shape[1:]
    zoom = max(size[0] / height, size[1] / width)
    scaled = (max(size[0], round(height * zoom)), max(size[1], round(width * zoom)))
    grey = transforms.resize(pixels, list(scaled), antialias=True)
    return transforms.center_crop(grey, list(size)).clamp(0, 1)
