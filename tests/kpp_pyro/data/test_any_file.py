"""Any file, valid or damaged: a reader returns images of the right shape and range, or raises an `InputError`."""

from __future__ import annotations

import gzip
import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from kpp_pyro.data import read_idx
from kpp_pyro.data.celeba32 import load_celeba32
from kpp_pyro.data.omniglot import load_omniglot
from kpp_pyro.data.picture_files import read_picture
from kpp_pyro.errors import InputError
from tests.kpp_pyro.data.test_datasets import idx, omniglot_arrays

few = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)
FORMATS = {
    "1": ("PNG", "TIFF", "BMP"),
    "L": ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "PPM"),
    "LA": ("PNG", "TIFF"),
    "P": ("PNG", "GIF", "BMP"),
    "RGB": ("PNG", "JPEG", "WEBP", "BMP", "TGA", "PPM"),
    "RGBA": ("PNG", "WEBP", "TIFF"),
    "I;16": ("PNG", "TIFF", "JPEG2000"),
    "I": ("PNG", "TIFF"),
    "F": ("TIFF",),
    "CMYK": ("JPEG", "TIFF"),
}


def bytes_of(mode: str, kind: str, height: int, width: int, seed: int) -> bytes:
    """A picture file with random pixels."""
    random = np.random.default_rng(seed)
    if mode == "F":
        picture = Image.fromarray(random.random((height, width), dtype=np.float32))
    elif mode.startswith("I"):
        dtype = np.uint16 if mode == "I;16" else np.int32
        picture = Image.fromarray(random.integers(0, 2**16, (height, width)).astype(dtype))
    else:
        picture = Image.fromarray(random.integers(0, 256, (height, width, 4), dtype=np.uint8)).convert(mode)
    options = {"transparency": 0} if mode == "P" and kind != "BMP" else {}
    with io.BytesIO() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of "I" as PNG
        picture.save(file, kind, **options)
        return file.getvalue()


pictures = st.sampled_from([(mode, kind) for mode, kinds in FORMATS.items() for kind in kinds]).flatmap(
    lambda chosen: st.builds(
        bytes_of, st.just(chosen[0]), st.just(chosen[1]), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9)
    )
)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Files of which some bytes are others, and the end may be missing."""
    content = bytearray(draw(whole))
    early = st.integers(0, min(len(content), 200) - 1)  # headers
    for place, value in draw(st.lists(st.tuples(early | st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[place] = value
    return bytes(content[: draw(st.just(len(content)) | st.integers(0, len(content)))])


def read_or_refused(path: Path, read: Callable[[Path], torch.Tensor], content: bytes) -> torch.Tensor | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        return read(path)
    except InputError as error:
        assert "expected" in str(error) and "\n" not in str(error)
        assert str(error).startswith(f"{path}: ")
        return None


def read_fitted(path: Path) -> torch.Tensor:
    grey, colour = (read_picture(path, (channels, 12, 16)) for channels in (1, 3))
    return torch.cat([grey, colour])


def assert_intensities(found: torch.Tensor) -> None:
    assert found.shape == (4, 12, 16) and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1


@given(content=pictures)
@few
def test_a_picture_of_any_mode_and_size_is_read(tmp_path: Path, content: bytes) -> None:
    found = read_or_refused(tmp_path / "picture.png", read_fitted, content)
    assert found is not None
    assert_intensities(found)


@pytest.mark.filterwarnings("ignore")  # of PIL, about unusual pictures
@given(content=damaged(pictures) | st.binary(max_size=200))
@few
def test_a_damaged_picture_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    found = read_or_refused(tmp_path / "picture.png", read_fitted, content)
    if found is not None:
        assert_intensities(found)


shapes = st.lists(st.integers(1, 6), min_size=3, max_size=3) | st.lists(st.integers(1, 6), min_size=1, max_size=1)
packers = st.sampled_from([bytes, gzip.compress])


def idx_of(shape: list[int], pack: Callable[[bytes], bytes]) -> bytes:
    return pack(idx(np.arange(math.prod(shape)).reshape(shape)))


@given(shape=shapes, pack=packers)
@few
def test_idx_of_any_shape_is_read(tmp_path: Path, shape: list[int], pack: Callable[[bytes], bytes]) -> None:
    found = read_or_refused(tmp_path / "idx", read_idx, idx_of(shape, pack))
    assert found is not None and found.flatten().tolist() == [n % 256 for n in range(math.prod(shape))]
    assert list(found.shape) == shape


@given(
    content=damaged(st.builds(idx_of, shapes, packers)) | damaged(st.builds(idx_of, shapes, packers)).map(gzip.compress)
)
@few
def test_a_damaged_idx_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    found = read_or_refused(tmp_path / "idx", read_idx, content)
    assert found is None or (found.dtype == torch.uint8 and found.ndim in (1, 3) and found.numel() > 0)


def mat_of(compressed: bool, format: str) -> bytes:
    with io.BytesIO() as file:
        savemat(file, omniglot_arrays(), format=format, do_compression=compressed and format == "5")
        return file.getvalue()


def load_mat(path: Path) -> torch.Tensor:
    splits = load_omniglot(path.parents[1])
    assert splits.train.image_shape == splits.validation.image_shape == splits.test.image_shape == (1, 28, 28)
    return torch.cat([splits.train.images, splits.validation.images, splits.test.images])


@pytest.mark.filterwarnings("ignore")  # of scipy, about names
@given(content=damaged(st.builds(mat_of, st.booleans(), st.sampled_from(["4", "5"]))))
@few
def test_a_damaged_omniglot_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    found = read_or_refused(tmp_path / "OMNIGLOT" / "chardata.mat", load_mat, content)
    assert found is None or (found.dtype == torch.uint8 and found.shape[1:] == (1, 28, 28))


def npz_of(images: int, save: Callable[..., None]) -> bytes:
    arrays = {part: np.full((images, 4, 4, 3), 7, np.uint8) for part in ("train", "test")}
    with io.BytesIO() as file:
        save(file, **arrays)
        return file.getvalue()


def load_npz(path: Path) -> torch.Tensor:
    return load_celeba32(path.parent).train.images


@pytest.mark.filterwarnings("ignore")  # of zipfile and NumPy, about names and headers
@given(content=damaged(st.builds(npz_of, st.integers(2, 30), st.sampled_from([np.savez, np.savez_compressed]))))
@few
def test_a_damaged_npz_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    found = read_or_refused(tmp_path / "celeba32.npz", load_npz, content)
    assert found is None or (found.dtype == torch.uint8 and found.shape[1] == 3)
