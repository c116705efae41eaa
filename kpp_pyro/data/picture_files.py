"""Picture files to images of a model's shape: grey, scaled, cropped and centred."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kpp_pyro.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
_OPAQUE = ("1", "L", "RGB")  # PIL modes without transparency, which are converted to grey directly
_DRAFT_FACTOR = 2  # a JPEG may be decoded at a lower resolution, down to this multiple of the required size


def read_pictures(folder: Path | str, image_shape: tuple[int, int, int], dark_on_light: bool = False) -> Tensor:
    """Read all pictures of a folder, in the order of the file names.

    Pictures are converted to grey, scaled so that the shorter side fits, and cropped to the centre.

    Args:
        folder: of the files (.png, .jpg, .gif, .webp, .bmp, .tif, .ppm, .pgm); other files are ignored.
        image_shape: (1, H, W) of the model.
        dark_on_light: invert the intensities; models are trained on light strokes on a dark background. Transparent
            pixels are background.

    Returns:
        Intensities in [0, 1], (N, 1, H, W). For models of binary images, apply `binarize`.

    Raises:
        InputError: no such folder, no pictures in it, an unreadable picture, or an image shape of several channels.
    """
    folder = Path(folder)
    if not isinstance(image_shape, tuple | list) or len(image_shape) != 3 or min(image_shape) < 1:
        raise InputError(f"image shape: expected (1, H, W), found {image_shape!r:.100}")
    if image_shape[0] != 1:
        raise InputError(f"image shape: expected one channel, found {image_shape[0]}")
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of pictures, found no folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"{folder}: expected pictures ({', '.join(sorted(SUFFIXES))}), found none")
    background = 255 if dark_on_light else 0
    images = torch.stack([read_picture(path, image_shape[1:], background) for path in files])
    return 1 - images if dark_on_light else images


def read_picture(path: Path | str, size: tuple[int, int], background: int = 0) -> Tensor:
    """Read one picture: convert it to grey, scale it so that its shorter side fits, and crop it to the centre.

    Args:
        path: the file; of an animation, the first frame is read.
        size: (H, W).
        background: grey level of transparent pixels, 0 to 255.

    Returns:
        Intensities in [0, 1], (1, H, W).

    Raises:
        InputError: the file cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            picture.draft("L", (_DRAFT_FACTOR * max(size),) * 2)  # JPEGs only; EXIF may swap the sides
            grey = _grey(ImageOps.exif_transpose(picture), background)
        fitted = ImageOps.fit(grey, (size[1], size[0]), Image.Resampling.BILINEAR)
    except Exception as error:  # PIL raises many types, depending on which byte is wrong
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: expected a picture, found a file that cannot be decoded ({reason})") from error
    return torch.from_numpy(np.array(fitted)).clamp(0, 1).unsqueeze(0)  # (1, H, W)


def _grey(picture: Image.Image, background: int) -> Image.Image:
    """Intensities in [0, 1]; transparent pixels show the background."""
    if picture.mode.startswith("I"):  # 16 bits, which `convert` would clip to 8
        return Image.fromarray(np.asarray(picture, dtype=np.float32) / 65535)
    if picture.mode in _OPAQUE and "transparency" not in picture.info:
        opaque = picture.convert("L")
    else:
        transparent = picture.convert("RGBA")
        below = Image.new("RGBA", transparent.size, (background, background, background, 255))
        opaque = Image.alpha_composite(below, transparent).convert("L")
    return Image.fromarray(np.asarray(opaque, dtype=np.float32) / 255)
