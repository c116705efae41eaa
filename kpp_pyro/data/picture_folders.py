"""Folders of pictures: the names of all pictures in a folder, at any depth, and their images."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from kpp_pyro.arguments import checked
from kpp_pyro.config_part import require_value
from kpp_pyro.data.notes import note_flat, note_skipped
from kpp_pyro.data.picture_files import read_picture, suffixes
from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import as_path
from kpp_pyro.schema import Side

_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


@checked
def read_pictures(folder: Path | str, image_shape: tuple[int, int, int], dark_on_light: bool = False) -> Tensor:
    """Read all pictures of a folder and its sub-folders, in the order of their names.

    The arguments are those of `named_pictures`, which returns the names, too.

    Returns:
        Intensities in [0, 1], (N, C, H, W). To score them, apply `binarize` for models of binary images, and round them
        to levels, (255 * images).round() / 255, for models of 256 levels.

    Raises:
        InputError: no such folder, no pictures in it, an unreadable picture, or another number of channels.
    """
    return named_pictures(folder, image_shape, dark_on_light)[1]


@checked
def named_pictures(
    folder: Path | str, image_shape: tuple[int, int, int], dark_on_light: bool = False
) -> tuple[list[str], Tensor]:
    """Read all pictures of a folder and its sub-folders, or one picture file, with their names.

    Pictures are converted to grey or to RGB (see `read_picture`), scaled so that the shorter side fits, and cropped to
    the centre. Notes on stderr name files that are no pictures, and say if most pictures are one flat colour.

    Args:
        folder: of the files, in any format that the installed Pillow decodes, or one such file. Hidden files and
            folders are ignored.
        image_shape: (C, H, W) of the model: C = 1 for grey, 3 for RGB.
        dark_on_light: invert the intensities; models are trained on light strokes on a dark background.

    Returns:
        Sorted names, relative to the folder and with / between folders; and intensities in [0, 1], (N, C, H, W).

    Raises:
        InputError: no such folder, no pictures in it, an unreadable picture, or another number of channels.
    """
    folder = as_path(folder, "a folder of pictures")
    if not isinstance(image_shape, tuple | list) or len(image_shape) != 3:
        raise InputError(f"image shape: expected (C, H, W), found {image_shape!r:.100}")
    for name, size, kind in zip("CHW", image_shape, (Literal[1, 3], Side, Side), strict=True):
        require_value(f"image shape, {name}", size, kind)
    names = [folder.name] if os.path.isfile(folder) else picture_names(folder)
    place = folder.parent if os.path.isfile(folder) else folder
    images = torch.stack([read_picture(place / name, image_shape, dark_on_light) for name in names])
    note_flat(folder, (images * 255).round().byte())
    return names, images


def picture_names(folder: Path, remedy: str = "") -> list[str]:
    """Sorted names of all pictures below a folder, relative to it, with / between folders.

    A file is a picture by its suffix; a note on stderr names files of other types. Hidden files and folders are
    ignored. A symbolic link to a folder is followed only if no other path leads to that folder. Of several links to one
    folder, the least deep one is followed, then the first by name.

    Args:
        folder: to look in.
        remedy: end of the message if there is no such folder.

    Raises:
        InputError: no such folder, one that cannot be read, or no picture in it.
    """
    if not os.path.isdir(folder):
        found = "a file or a broken link" if os.path.lexists(folder) else "none"
        raise InputError(f"{folder}: expected a folder of pictures, found {found}{remedy}")
    visible = [name for name in _files_below(folder) if not _is_hidden(os.path.basename(name))]
    pictures = sorted(name for name in visible if os.path.splitext(name)[1].lower() in suffixes())
    if not pictures:
        among = f"none among {len(visible)} files" if visible else "none"
        raise InputError(
            f"{folder}: expected pictures that Pillow reads (.png, .jpg, .tiff, .webp, ...), found {among}"
        )
    note_skipped(folder, sorted(set(visible) - set(pictures)))
    return pictures


def _files_below(folder: Path) -> Iterable[str]:
    """Names of all files below a folder, relative to it."""
    found = ((Path(place).relative_to(folder), files) for place, files in _walk(folder))
    return ((inside / name).as_posix() for inside, files in found for name in files)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and all folders below it, without hidden ones, each once, with the names of their files."""
    tops, seen = deque([str(folder)]), set[str]()
    while tops:
        for place, folders, files in os.walk(tops.popleft(), onerror=_refuse):  # links are followed afterwards
            if (real := os.path.realpath(place)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            tops += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
            yield place, files


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: expected a folder that can be read, found none ({error.strerror})") from error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES
