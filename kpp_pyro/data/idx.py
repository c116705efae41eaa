"""IDX, the file format of MNIST and its relatives (http://yann.lecun.com/exdb/mnist/).

Big-endian: a 4-byte magic number 0x00 0x00 <type> <number of dimensions>, one 4-byte size for each dimension,
then the values in row-major order. Type 0x08 is an unsigned byte.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import reading, require_unpackable

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
    with reading(path, "a readable IDX file") as file:
        try:
            return _read(path, file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path}: expected a whole gzip file, found a truncated or corrupt one") from error


def _read(path: Path | str, file: BinaryIO) -> Tensor:
    """The values of an open file. No more bytes are read than the header announces, whatever a gzip file expands to."""
    packed = file.read(len(_GZIP_SIGNATURE)) == _GZIP_SIGNATURE
    file.seek(0)
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
    sizes = _sizes(path, stream)
    values_bytes, file_bytes = math.prod(sizes), os.fstat(file.fileno()).st_size
    if packed:
        require_unpackable(path, values_bytes, file_bytes)
    values = bytearray(stream.read(values_bytes + 1 if packed else file_bytes))
    if len(values) != values_bytes or values_bytes == 0:
        raise InputError(
            f"{path}: the header announces sizes {tuple(sizes)}, so expected {4 + 4 * len(sizes) + values_bytes} bytes "
            f"and at least one value, found {stream.tell()} bytes{' or more' if packed else ''}"
        )
    return torch.frombuffer(values, dtype=torch.uint8).reshape(sizes)


def _sizes(path: Path | str, stream: BinaryIO) -> list[int]:
    """The size of each dimension, from the header."""
    magic = stream.read(4)
    if magic not in (LABELS_MAGIC.to_bytes(4, "big"), IMAGES_MAGIC.to_bytes(4, "big")):
        raise InputError(
            f"{path}: expected an IDX file with magic number 0x{IMAGES_MAGIC:08x} (images) or "
            f"0x{LABELS_MAGIC:08x} (labels), found 0x{magic.hex()}"
        )
    header = stream.read(4 * magic[3])
    return [int.from_bytes(header[place : place + 4], "big") for place in range(0, 4 * magic[3], 4)]
