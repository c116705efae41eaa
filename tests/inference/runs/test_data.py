"""The episodes of a configuration: what is said of splits that do not fit or show nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inference.runs.config import Config
from inference.runs.data import build_episodes
from kpp_pyro.data import DATASETS, load_dataset
from kpp_pyro.data.datasets import DataSource
from kpp_pyro.errors import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"episode_length": 1296}, "--episode-length: .* the 1295 images of the training split of digits, found 1296"),
        ({"episode_length": 144}, "--episode-length: .* the 143 images of the validation split of digits, found 144"),
        ({"classes_per_episode": 11}, "--classes-per-episode: .* the 10 classes of the training split of digits"),
    ],
)
def test_a_split_that_does_not_fit_is_named(fields: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{sentence}"):
        build_episodes(Config.preset("digits", **fields), CPU)


def test_a_split_that_shows_nothing_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_dataset("digits", tmp_path)
    build_episodes(Config.preset("digits"), CPU)
    assert capsys.readouterr().err == ""
    test = replace(digits.test, images=digits.test.images.clone())
    test.images[:200] = 255
    monkeypatch.setitem(DATASETS, "digits", DataSource(lambda _: replace(digits, test=test)))
    build_episodes(Config.preset("digits"), CPU)
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: the test split of digits: 200 of 359 images looked at are one flat colour")
