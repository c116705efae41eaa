"""A folder of pictures as images that a model can take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from kpp_pyro.errors import InputError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".webp"}


def read_pictures(folder: Path | str, image_shape: tuple[int, int, int], dark_on_light: bool = False) -> Tensor:
    """Read every picture of a folder, in the order of the file names.

    Pictures are made grey, scaled until their shorter side fits, and cut to the middle.

    Args:
        folder: where the files are (.png, .jpg, .gif, .webp); others are left alone.
        image_shape: (1, H, W) of the model.
        dark_on_light: swap black and white; the models are trained on light strokes on a dark ground. What is
            transparent is the ground.

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
    ground = 255 if dark_on_light else 0
    images = torch.stack([_read(path, image_shape[1:], ground) for path in files])
    return 1 - images if dark_on_light else images


def _read(path: Path, size: tuple[int, int], ground: int) -> Tensor:
    try:
        with Image.open(path) as picture:
            grey = _grey(ImageOps.exif_transpose(picture), ground)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: expected a picture, found a file that cannot be decoded ({error})") from error
    fitted = ImageOps.fit(grey, (size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(fitted)).clamp(0, 1).unsqueeze(0)  # (1, H, W)


def _grey(picture: Image.Image, ground: int) -> Image.Image:
    """Intensities in [0, 1]; what is transparent shows the ground."""
    if picture.mode.startswith("I"):  # 16 bits, which conversion would cut off
        return Image.fromarray(np.asarray(picture, dtype=np.float32) / 65535)
    coloured = picture.convert("RGBA")
    paper = Image.new("RGBA", coloured.size, (ground, ground, ground, 255))
    opaque = Image.alpha_composite(paper, coloured).convert("L")
    return Image.fromarray(np.asarray(opaque, dtype=np.float32) / 255)
