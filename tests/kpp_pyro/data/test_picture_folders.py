"""Pictures of a folder and its sub-folders, with their names; formats are tested in `test_picture_files.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kpp_pyro.data import named_pictures, read_pictures
from kpp_pyro.errors import InputError

SHAPE = (1, 12, 16)


def save(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16), grey, dtype=np.uint8)).save(path)


def test_names_come_with_their_pictures_from_all_depths_in_order(tmp_path: Path) -> None:
    greys = {"b/2.png": 2, "b/deep/1.bmp": 3, "a.png": 1, "z.PNG": 4}
    for name, grey in greys.items():
        save(tmp_path / name, grey)
    save(tmp_path / ".hidden" / "5.png", 5)
    (tmp_path / "loop").symlink_to(tmp_path)
    names, images = named_pictures(tmp_path, SHAPE)
    assert names == ["a.png", "b/2.png", "b/deep/1.bmp", "z.PNG"]
    assert [round(level) for level in (images[:, 0, 0, 0] * 255).tolist()] == [1, 2, 3, 4]
    assert torch.equal(read_pictures(tmp_path, SHAPE), images)
    assert torch.equal(named_pictures(tmp_path, SHAPE, dark_on_light=True)[1], 1 - images)


def test_one_file_is_one_picture(tmp_path: Path) -> None:
    save(tmp_path / "only.png", 51)
    save(tmp_path / "other.png", 9)
    names, images = named_pictures(tmp_path / "only.png", SHAPE)
    assert names == ["only.png"]
    torch.testing.assert_close(images, torch.full((1, *SHAPE), 0.2))


def test_an_unreadable_picture_below_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", 9)
    (tmp_path / "a" / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=rf"^{tmp_path}/a/2.png: expected a picture, found"):
        read_pictures(tmp_path, SHAPE)
