"""A picture file to an image of a model's shape: grey or in colour, scaled, cropped and centred."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from kpp_pyro.arguments import checked
from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import reading

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints what PIL logs, beside the error
_COMMON = ("JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "PPM")  # tried first
# Formats that Pillow does not decode, leaves to another program, or decodes wrongly (FITS: with its bytes swapped).
_UNDECODABLE = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
_OPAQUE = ("1", "L", "RGB")  # PIL modes without transparency, which are converted directly
_GREY = ("1", "L", "LA", "La", "F")  # PIL modes of grey pictures, besides those of whole numbers: I, I;16, ...
_MODES = {1: "L", 3: "RGB"}  # PIL modes by the number of channels
_DRAFT_FACTOR = 2  # a JPEG may be decoded at a lower resolution, down to this multiple of the required size
_SAMPLED_SIDE = 32  # pixels to which a picture is averaged, to choose the ground of its transparent pixels
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF files
_WHITE_IS_ZERO, _SIGNED = 0, 2  # values of the second and of the third


@checked
def read_picture(path: Path | str, image_shape: tuple[int, int, int], dark_on_light: bool = False) -> Tensor:
    """Read one picture: convert it, scale it so that its shorter side fits, and crop it to the centre.

    One channel is grey, ITU-R 601 luma (PIL's mode L); three are RGB, which are equal for a grey picture.
    Whole numbers are divided by the largest of their type (8, 16 or 32 bits). Transparent pixels become white, or black
    if the visible part of the picture is lighter than mid-grey on average, so that strokes of any colour stay visible.

    Args:
        path: the file; of an animation, the first frame is read.
        image_shape: (C, H, W), with C = 1 or 3.
        dark_on_light: invert the intensities.

    Returns:
        Intensities in [0, 1], (C, H, W).

    Raises:
        InputError: the file cannot be decoded, or has float or signed values outside that range.
    """
    with reading(path, "a picture") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, about unusual pictures that it decodes
        planes = _decode(path, file, image_shape)
    image = torch.from_numpy(np.stack(planes)).clamp(0, 1)  # (C, H, W)
    return 1 - image if dark_on_light else image


def picture_size(path: Path | str) -> tuple[int, int]:
    """Width and height of a picture by its header, in pixels.

    Raises:
        InputError: the file cannot be opened as a picture.
    """
    with reading(path, "a picture") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, about unusual pictures
        with opened_picture(path, file) as picture:
            return picture.size


def is_grey(path: Path | str) -> bool:
    """Whether a picture is grey by its header: by its mode, or by its palette.

    Only pictures with a palette are decoded. A picture in a colour mode whose pixels are all grey is not grey.

    Raises:
        InputError: the file cannot be opened as a picture.
    """
    with reading(path, "a picture") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, about unusual pictures
        with opened_picture(path, file) as picture:
            if picture.mode not in ("P", "PA"):
                return picture.mode in _GREY or picture.mode.startswith("I")
            red, green, blue = np.array(picture.getpalette("RGB")).reshape(-1, 3).T
            return bool(((red == green) & (green == blue)).all())


@cache
def _formats() -> tuple[str, ...]:
    """The formats that the installed Pillow decodes itself, and knows by a suffix."""
    Image.init()
    known = set(Image.registered_extensions().values()) & set(Image.OPEN) - _UNDECODABLE
    return (*_COMMON, *sorted(known - set(_COMMON)))


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of picture files that can be read, in lower case."""
    formats = _formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def _decode(path: Path | str, file: BinaryIO, image_shape: tuple[int, int, int]) -> list[np.ndarray]:
    """The channels of a picture, float32 (H, W) each, about in [0, 1]."""
    channels, height, width = image_shape
    with opened_picture(path, file) as picture:
        draft_side = _DRAFT_FACTOR * max(height, width)  # EXIF may swap the sides
        picture.draft(_MODES[channels], (draft_side, draft_side))  # JPEGs only
        values = _intensities(ImageOps.exif_transpose(picture), _largest(picture), channels)
        values = 1 - values if _is_inverted(picture) else values
        return [fitted(plane, height, width) for plane in values]


def fitted(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """A channel, float32 (h, w), scaled so that its shorter side fits, and cropped to the centre: (height, width)."""
    # Of mode F: nothing is rounded before it is fitted.
    return np.array(ImageOps.fit(Image.fromarray(plane), (width, height), Image.Resampling.BILINEAR))


@contextmanager
def opened_picture(path: Path | str, file: BinaryIO) -> Iterator[Image.Image]:
    """The picture of a file; whatever PIL raises inside this context becomes an `InputError` that names the file."""
    try:
        with Image.open(file, formats=_formats()) as picture:
            yield picture
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: expected a picture, found a file that cannot be decoded (unknown format)") from error
    except Exception as error:  # PIL raises many types, depending on which byte is wrong
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: expected a picture, found a file that cannot be decoded ({reason})") from error


def _largest(picture: Image.Image) -> int:
    """Largest value of the type of a picture's pixels, if they are whole numbers of more than 8 bits."""
    if picture.format == "TIFF":
        tags = picture.tag_v2  # type: ignore[attr-defined]
        bits, kind = tags.get(_BITS_PER_SAMPLE, (8,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0]
        if kind == _SIGNED and bits <= 8:  # Pillow reads them as if they were not
            raise InputError("expected values without a sign, found signed ones of 8 bits")
        return 2 ** (bits - 1 if kind == _SIGNED else bits) - 1
    return 2**31 - 1 if picture.mode == "I" and picture.format not in ("PNG", "PPM") else 2**16 - 1


def _is_inverted(picture: Image.Image) -> bool:
    """Whether white is zero in values that Pillow leaves so: those of more than 8 bits in a TIFF file."""
    if picture.format != "TIFF" or picture.mode[0] not in "IF":
        return False
    return picture.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # type: ignore[attr-defined]


def _intensities(picture: Image.Image, largest: int, channels: int) -> np.ndarray:
    """Intensities in [0, 1], float32 (C, H, W)."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = _wide_grey(picture, largest)
        return np.broadcast_to(grey, (channels, *grey.shape))
    opaque = picture.mode in _OPAQUE and "transparency" not in picture.info
    visible = picture if opaque else _on_ground(picture.convert("RGBA"))
    levels = np.asarray(visible.convert(_MODES[channels]), dtype=np.float32)  # (H, W) or (H, W, 3)
    return np.ascontiguousarray(np.atleast_3d(levels / 255).transpose(2, 0, 1))


def _wide_grey(picture: Image.Image, largest: int) -> np.ndarray:
    """Intensities of a grey picture of more than 8 bits, float32 (H, W)."""
    if picture.mode == "F":
        return _in_range(np.asarray(picture), "float values in [0, 1]")
    values = np.asarray(picture)
    unsigned = values.view(np.uint32) if largest == 2**32 - 1 else values  # PIL has signed integers only
    intensities = _in_range((unsigned / largest).astype(np.float32), f"values from 0 to {largest}", largest)
    return _on_ground_of(intensities, unsigned != picture.info.get("transparency", -1))


def _in_range(values: np.ndarray, expected: str, unit: int = 1) -> np.ndarray:
    """Values in [0, 1]; others, and NaN, raise InputError, whose message multiplies them by `unit`."""
    if not (values.min() >= 0 and values.max() <= 1):
        raise InputError(f"expected {expected}, found {values.min() * unit:g} to {values.max() * unit:g}")
    return values


def _on_ground_of(grey: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Intensities whose invisible pixels are white, or black if the visible ones are lighter than mid-grey."""
    if visible.all() or not visible.any():
        return grey
    return np.where(visible, grey, np.float32(grey[visible].mean() <= 0.5))


def _on_ground(picture: Image.Image) -> Image.Image:
    """A picture of mode RGBA on white, or on black if its visible part is lighter than mid-grey on average."""
    sample = picture.resize((_SAMPLED_SIDE, _SAMPLED_SIDE), Image.Resampling.BOX)
    opacity = np.asarray(sample.getchannel("A"), dtype=float)
    light = float((np.asarray(sample.convert("L")) * opacity).sum()) > 127.5 * opacity.sum()
    ground = Image.new("RGBA", picture.size, "black" if light else "white")
    return Image.alpha_composite(ground, picture)
