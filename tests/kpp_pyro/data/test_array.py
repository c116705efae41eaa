"""Images of one's own in NumPy files: every documented layout comes back, and every other file is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kpp_pyro.data import load_dataset
from kpp_pyro.data.images import ImageSplits
from kpp_pyro.errors import InputError
from kpp_pyro.files import reading

LEVELS = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 20), dtype=np.uint8)


def whole(splits: ImageSplits) -> tuple[Tensor, Tensor]:
    """All images and labels, in the order of the images' bytes, which do not depend on the split."""
    parts = (splits.train, splits.validation, splits.test)
    images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    order = sorted(range(len(images)), key=lambda number: images[number].numpy().tobytes())
    return images[order], labels[order]


def in_order(levels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(sorted(levels, key=lambda image: image.tobytes())))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (LEVELS, LEVELS),
        (LEVELS.transpose(0, 2, 3, 1), LEVELS),
        (np.asfortranarray(LEVELS), LEVELS),
        (LEVELS[:, 0], LEVELS[:, :1]),
        (LEVELS[:, :1], LEVELS[:, :1]),
        (LEVELS[:, 0, ..., None], LEVELS[:, :1]),
        (LEVELS[:, 0] > 127, (LEVELS[:, :1] > 127) * np.uint8(255)),
        *((LEVELS.astype(kind) / kind(255), LEVELS) for kind in (np.float32, np.float64)),
        (LEVELS[:, 0].astype(">f4") / 255, LEVELS[:, :1]),
    ],
)
def test_an_array_of_any_layout_comes_back(tmp_path: Path, array: np.ndarray, expected: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    splits = load_dataset("array", tmp_path / "a.npy")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [39, 9, 12]
    assert torch.equal(whole(splits)[0], in_order(expected))
    inverted = load_dataset("array", tmp_path / "a.npy", dark_on_light=True)
    assert torch.equal(inverted.train.images, 255 - splits.train.images)


def test_labels_stay_with_their_images_and_a_share_is_held_out(tmp_path: Path) -> None:
    labels = LEVELS[:, 0, 0, 0].astype(int)
    np.savez_compressed(tmp_path / "a.npz", images=LEVELS, labels=labels)
    splits = load_dataset("array", tmp_path / "a.npz", test_share=0.5)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [24, 6, 30]
    images, found = whole(splits)
    assert found.tolist() == images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("images", "labels"), [("{}", "{}_labels"), ("x_{}", "y_{}")])
@pytest.mark.parametrize("validation", [True, False])
def test_given_splits_are_kept(tmp_path: Path, images: str, labels: str, validation: bool) -> None:
    cuts = {"train": slice(0, 30), "test": slice(30, 40), **({"validation": slice(40, 45)} if validation else {})}
    arrays: dict[str, Any] = {images.format(split): LEVELS[cut] for split, cut in cuts.items()}
    arrays |= {labels.format(split): np.arange(60)[cut, None] for split, cut in cuts.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    splits = load_dataset("array", tmp_path / "a.npz")
    assert torch.equal(splits.test.images, torch.from_numpy(LEVELS[30:40]))
    assert splits.test.labels.tolist() == list(range(30, 40))
    held_out = splits.validation.labels.tolist()
    assert held_out == list(range(40, 45)) if validation else len(held_out) == 6 and set(held_out) < set(range(30))
    assert sorted(splits.train.labels.tolist() + ([] if validation else held_out)) == list(range(30))
    with pytest.raises(InputError, match=r"^--test-share: expected none, since .* has test images, found 0.1$"):
        load_dataset("array", tmp_path / "a.npz", test_share=0.1)


def test_images_are_scaled_as_pictures_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = LEVELS[:, :, :16, 2:18].repeat(2, 2).repeat(2, 3)  # (60, 3, 32, 32)
    np.save(tmp_path / "a.npy", np.pad(blocks, ((0, 0), (0, 0), (0, 0), (5, 5))))
    splits = load_dataset("array", tmp_path / "a.npy", image_size=16)
    assert splits.train.image_shape == (3, 16, 16)
    note = f"note: {tmp_path}/a.npy: images of 32x42 pixels are scaled to 16x16 (--image-size)"
    assert note in capsys.readouterr().err.splitlines()
    np.save(tmp_path / "b.npy", np.full((20, 40, 40), np.arange(20)[:, None, None] * 10, np.uint8))
    images = whole(load_dataset("array", tmp_path / "b.npy", image_size=16))[0]
    assert torch.equal(images, (torch.arange(20) * 10).byte().view(-1, 1, 1, 1).expand(-1, 1, 16, 16))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (LEVELS.astype(int), "uint8, bool or floats of shape .*, found int64"),
        (LEVELS[:, :2], "C = 1 or 3 .*, found uint8"),
        (LEVELS[:, 0, :, :7], "sides of at least 8 pixels, found uint8"),
        (LEVELS[0, 0], r"found uint8 \(16, 20\)"),
        (LEVELS[:0], r"found uint8 \(0, 3, 16, 20\)"),
        (np.float32(3), r"found float32 \(\)"),
        (LEVELS.astype(float), r"floats in \[0, 1\], or uint8 from 0 to 255, in the array, found 0 to 255"),
        (np.where(LEVELS > 250, np.nan, 0), r"floats in \[0, 1\].*, found nan to nan"),
        (LEVELS // 128, "uint8 from 0 to 255 in the array, found 0 and 1 alone; save them as bool"),
        (np.array([{}]), "an .npy file of numbers, found Python objects, which are never unpickled"),
        (LEVELS[:19, 0], "20 different images or more, to hold some of them out, found 19"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, expected: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=rf"^{tmp_path}/a.npy: expected .*{expected}"):
        load_dataset("array", tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"foo": LEVELS}, "an array of training images, one of images, arr_0, train, x_train, found foo"),
        ({"test": LEVELS}, "an array of training images, .*, found test"),
        ({"images": LEVELS, "labels": np.arange(59)}, r"'labels' to be whole numbers \(60,\), found int64 \(59,\)"),
        (
            {"images": np.array([{}])},
            "'images' to be an array of numbers, found Python objects, which are never unpickled",
        ),
        ({"images": LEVELS, "x_train": LEVELS}, "an array of training images, one of .*, found images, x_train"),
        ({"train": LEVELS, "test": LEVELS[:, :1]}, "test images .* like those of training"),
    ],
)
def test_other_npz_files_are_refused(tmp_path: Path, arrays: dict[str, Any], expected: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=rf"^{tmp_path}/a.npz: expected {expected}"):
        load_dataset("array", tmp_path / "a.npz")


def test_a_header_cannot_announce_more_than_the_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", LEVELS)
    content = (tmp_path / "a.npy").read_bytes().replace(b"(60, 3, 16, 20)", b"(99999999999999, 3, 16, 20)")
    for name, lie in {"long.npy": content, "cut.npy": (tmp_path / "a.npy").read_bytes()[:5000]}.items():
        (tmp_path / name).write_bytes(lie)
        with pytest.raises(InputError, match=rf"^{tmp_path}/{name}: expected an .npy file of numbers, found "):
            load_dataset("array", tmp_path / name)
    np.savez_compressed(tmp_path / "a.npz", LEVELS)
    monkeypatch.setattr(reading, "MOST_UNPACKED_BYTES", 1000)
    with pytest.raises(InputError, match=rf"^{tmp_path}/a.npz: expected at most 1000 bytes"):
        load_dataset("array", tmp_path / "a.npz")


@pytest.mark.parametrize(("make", "found"), [(Path.mkdir, "a folder"), (Path.touch, "another one")])
def test_what_is_no_array_is_named(tmp_path: Path, make: Any, found: str) -> None:
    make(tmp_path / "a.npy")
    with pytest.raises(InputError, match=rf"^{tmp_path}/a.npy: expected an .npy or .npz file of images, found {found}"):
        load_dataset("array", tmp_path / "a.npy")
