"""Paths: what is replaced in them, and what cannot be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import whole_path


def test_a_path_becomes_absolute_without_links_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("target")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert whole_path(Path("~/link/data")) == tmp_path.resolve() / "target" / "data"
    monkeypatch.chdir(tmp_path)
    assert whole_path("data") == tmp_path.resolve() / "data"


def test_what_cannot_be_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^~nobody-of-that-name/data: expected the name of a user after ~"):
        whole_path("~nobody-of-that-name/data")
    with pytest.raises(InputError, match=r"a\\x00b.: expected a path, found a path with a null character$"):
        whole_path("a\0b")
    (tmp_path / "loop").symlink_to("loop")
    assert whole_path(tmp_path / "loop").name == "loop"  # refused where it is opened
