"""Atomic downloads: after an error, no partial files are left."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zlib
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
    nearest = _nearest(folder, f"a folder with {', '.join(names)}")
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


def from_archive(url: str, md5: str, members: Sequence[str]) -> Callable[[Path], Path]:
    """A `fetch` for `download_files`: download a .tar.gz with a progress bar, check it, and unpack some of its files.

    Only the bytes of regular files are taken from the archive, no paths, links or permissions.

    Args:
        url: of the archive.
        md5: its MD5 sum, in hexadecimal digits.
        members: paths of the files in the archive; only their names remain.
    """

    def fetch(temporary: Path) -> Path:
        from torchvision.datasets.utils import check_integrity, download_url

        download_url(url, str(temporary), "archive")
        archive = temporary / "archive"
        if not check_integrity(str(archive), md5):
            raise RuntimeError(f"the archive has another MD5 sum than {md5}")
        _unpack(archive, members, temporary)
        return temporary

    return fetch


def _unpack(archive: Path, members: Sequence[str], folder: Path) -> None:
    """Copy members of a .tar.gz into a folder, by their names alone."""
    missing = set(members)
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                if member.name in missing and member.isfile() and (content := tar.extractfile(member)):
                    with content, open(folder / Path(member.name).name, "wb") as file:
                        shutil.copyfileobj(content, file)
                    missing.remove(member.name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise RuntimeError(f"the archive cannot be unpacked: {error}") from error
    if missing:
        raise RuntimeError(f"the archive lacks {', '.join(sorted(missing))}")


def _nearest(folder: Path, expected: str) -> Path:
    """The folder itself, or else the nearest one above it that exists.

    Raises:
        InputError: something else than a folder is there, or the path is not permitted or impossible.
    """
    for place in (folder, *folder.parents):
        try:
            if stat.S_ISDIR(place.stat().st_mode):
                return place
            found = f"that {place} is a file"
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError) and not place.is_symlink():
                continue
            found = f"that {place} cannot be opened ({getattr(error, 'strerror', error)})"
        raise InputError(f"{folder}: expected {expected}, found {found}")
    raise InputError(f"{folder}: expected {expected}, found no folder above it")
