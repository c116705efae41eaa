"""The IDX reader, against files written by hand."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from kpp_pyro.data import read_idx
from kpp_pyro.errors import InputError

IMAGES = bytes([0, 0, 8, 3]) + bytes([0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3]) + bytes([1, 2, 3, 4, 5, 255])
LABELS = bytes([0, 0, 8, 1]) + bytes([0, 0, 0, 4]) + bytes([9, 0, 1, 2])


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_reads_images_and_labels(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "images").write_bytes(pack(IMAGES))
    (tmp_path / "labels").write_bytes(pack(LABELS))
    assert read_idx(tmp_path / "images").tolist() == [[[1, 2, 3]], [[4, 5, 255]]]
    assert read_idx(tmp_path / "labels").tolist() == [9, 0, 1, 2]


def flipped(content: bytes) -> bytes:
    """Return a gzip file with one wrong byte in its checksum."""
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(IMAGES, mtime=0)[:-12], "truncated or corrupt"),
        (gzip.compress(IMAGES, mtime=0)[:4], "truncated or corrupt"),
        (flipped(gzip.compress(IMAGES, mtime=0)), "truncated or corrupt"),
        (gzip.compress(IMAGES, mtime=0)[:10] + b"\xff" * 20, "truncated or corrupt"),
        (b"", "magic number"),
        (b"\0\0\x08", "magic number"),
        (b"<html>not found</html>", "magic number .* found 0x3c68746d"),
        (b"\0\0\x0d\x03" + IMAGES[4:], "magic number .* found 0x00000d03"),
        (IMAGES[:-1], r"sizes \(2, 1, 3\), so expected 22 bytes .* found 21"),
        (IMAGES + b"\0", "expected 22 bytes .* found 23"),
        (IMAGES[:10], "found 10 bytes"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 0]), r"sizes \(0,\).* at least one value"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "found 16 bytes"),
        (
            gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(2**20), mtime=0),
            "unpacked from .* announces 79228162458924105",
        ),
        (gzip.compress(IMAGES[:15] + b"\3" + bytes(2**24), mtime=0), "expected 22 bytes .* found 23 bytes or more"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "some-idx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"some-idx.*{message}"):
        read_idx(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.*No such file"):
        read_idx(tmp_path / "absent")
    with pytest.raises(InputError, match=f"{tmp_path.name}: expected a readable IDX file, found a folder"):
        read_idx(tmp_path)
