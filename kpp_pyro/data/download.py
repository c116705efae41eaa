"""Downloading that leaves either whole files or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from kpp_pyro.errors import InputError


def download_files(folder: Path, names: Sequence[str], fetch: Callable[[Path], Path], source: str) -> None:
    """Bring the files `names` into `folder`, each renamed into place once all have arrived.

    fetch: downloads into the temporary folder it is given and returns the folder the files ended up in.
    source: where a person gets the files by hand, for the error message.
    Raises InputError, naming `folder` and `source`, without a network or a place to write.
    """
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        raise InputError(f"{folder}: expected a folder with {', '.join(names)}, found that {nearest} is a file")
    try:
        # On the file system of `folder`, so that renaming is atomic; and a failure leaves no empty folder.
        with TemporaryDirectory(dir=nearest, prefix=".download-") as temporary:
            arrived = fetch(Path(temporary))
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                os.replace(arrived / name, folder / name)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder}: expected {', '.join(names)}, found none and could not download ({reason}); "
            f"download from {source} by hand and put the files there"
        ) from error
