"""IDX, the file format of MNIST and its relatives (http://yann.lecun.com/exdb/mnist/).

Big-endian: a 4-byte magic number 0x00 0x00 <type> <number of dimensions>, one 4-byte size for each dimension,
then the values in row-major order. Type 0x08 is an unsigned byte.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from kpp_pyro.errors import InputError

LABELS_MAGIC = 0x0801
IMAGES_MAGIC = 0x0803
_GZIP_SIGNATURE = b"\x1f\x8b"


def read_idx(path: Path | str) -> Tensor:
    """Read a plain or gzipped IDX file of unsigned bytes.

    Returns:
        uint8: (N, H, W) for images, (N,) for labels.

    Raises:
        InputError: the file is missing, a truncated or corrupt gzip file, no IDX file, or of another length than its
            header says. The message names the file.
    """
    content = _read_bytes(Path(path))
    magic = int.from_bytes(content[:4], "big")
    if len(content) < 4 or magic not in (LABELS_MAGIC, IMAGES_MAGIC):
        raise InputError(
            f"{path}: expected an IDX file with magic number 0x{IMAGES_MAGIC:08x} (images) or "
            f"0x{LABELS_MAGIC:08x} (labels), found 0x{content[:4].hex()}"
        )
    header_bytes = 4 + 4 * (magic & 0xFF)
    sizes = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header_bytes, 4)]
    expected = header_bytes + math.prod(sizes)
    if len(content) != expected or expected == header_bytes:
        raise InputError(
            f"{path}: the header announces sizes {tuple(sizes)}, so expected {expected} bytes "
            f"and at least one value, found {len(content)} bytes"
        )
    # A bytearray, since torch warns about read-only buffers.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header_bytes).reshape(sizes)


def _read_bytes(path: Path) -> bytes:
    """Bytes of the file, decompressed if they start with the signature of gzip."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a readable IDX file, found none ({error.strerror})") from error
    if not content.startswith(_GZIP_SIGNATURE):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: expected a whole gzip file, found a truncated or corrupt one") from error
