"""Pictures as images that a model can take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kpp_pyro.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
_OPAQUE = ("1", "L", "RGB")  # modes of most pictures, which become grey at once
_SHRUNK_TO = 2  # a JPEG may be decoded smaller than it is, but not below so many times the size asked for


def read_pictures(folder: Path | str, image_shape: tuple[int, int, int], dark_on_light: bool = False) -> Tensor:
    """Read every picture of a folder, in the order of the file names.

    Pictures are made grey, scaled until their shorter side fits, and cut to the middle.

    Args:
        folder: where the files are (.png, .jpg, .gif, .webp, .bmp, .tif, .ppm, .pgm); others are left alone.
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
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"{folder}: expected pictures ({', '.join(sorted(SUFFIXES))}), found none")
    ground = 255 if dark_on_light else 0
    images = torch.stack([read_picture(path, image_shape[1:], ground) for path in files])
    return 1 - images if dark_on_light else images


def read_picture(path: Path | str, size: tuple[int, int], ground: int = 0) -> Tensor:
    """Read one picture: made grey, scaled until its shorter side fits, and cut to the middle.

    Args:
        path: the file; of an animation, the first picture counts.
        size: (H, W).
        ground: what shows where the picture is transparent, 0 to 255.

    Returns:
        Intensities (1, H, W) in [0, 1].

    Raises:
        InputError: the file cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            picture.draft("L", (_SHRUNK_TO * max(size),) * 2)  # of JPEGs; either side may be the height, see EXIF
            grey = _grey(ImageOps.exif_transpose(picture), ground)
        fitted = ImageOps.fit(grey, (size[1], size[0]), Image.Resampling.BILINEAR)
    except Exception as error:  # PIL raises a dozen different types, depending on which byte is wrong
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: expected a picture, found a file that cannot be decoded ({reason})") from error
    return torch.from_numpy(np.array(fitted)).clamp(0, 1).unsqueeze(0)  # (1, H, W)


def _grey(picture: Image.Image, ground: int) -> Image.Image:
    """Intensities in [0, 1]; what is transparent shows the ground."""
    if picture.mode.startswith("I"):  # 16 bits, which conversion would cut off
        return Image.fromarray(np.asarray(picture, dtype=np.float32) / 65535)
    if picture.mode in _OPAQUE and "transparency" not in picture.info:
        opaque = picture.convert("L")
    else:
        coloured = picture.convert("RGBA")
        paper = Image.new("RGBA", coloured.size, (ground, ground, ground, 255))
        opaque = Image.alpha_composite(paper, coloured).convert("L")
    return Image.fromarray(np.asarray(opaque, dtype=np.float32) / 255)
