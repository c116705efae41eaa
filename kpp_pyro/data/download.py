"""Atomic downloads: after an error, no partial files are left."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from kpp_pyro.errors import InputError


def download_files(folder: Path, names: Sequence[str], fetch: Callable[[Path], Path], source: str) -> None:
    """Download files into `folder`: into a temporary folder first, from which they are moved when all are complete.

    Args:
        folder: of the files.
        names: of the files.
        fetch: downloads into the temporary folder that it is called with, and returns the folder of the files.
        source: address for a download by hand, for the error message.

    Raises:
        InputError: the download fails or the folder cannot be written to. The message names `folder` and `source`.
    """
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        raise InputError(f"{folder}: expected a folder with {', '.join(names)}, found that {nearest} is a file")
    try:
        # On the file system of `folder`, so that renaming is atomic. `folder` is not created before success.
        with TemporaryDirectory(dir=nearest, prefix=".download-") as temporary:
            downloaded = fetch(Path(temporary))
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                os.replace(downloaded / name, folder / name)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder}: expected {', '.join(names)}, found none and could not download ({reason}); "
            f"download from {source} by hand and put the files there"
        ) from error
