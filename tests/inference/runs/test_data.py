"""The episodes of a configuration: what is said of splits that do not fit or show nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
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


@pytest.mark.parametrize(("images", "length"), [(500, 32), (240, 16), (100, 8), (20, 2)])
def test_episodes_are_as_long_as_few_images_allow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], images: int, length: int
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (images, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "a.npy", levels)
    own = Config.preset("array", data_dir=tmp_path / "a.npy", image_size=16)
    episodes = build_episodes(own, CPU)
    assert episodes.train.order.episode_length == length
    assert episodes.test.episode_length == episodes.validation.episode_length == length
    assert length == 2 or min(len(episodes.validation), len(episodes.test)) > 1
    note = f"note: episodes have {length} images: the "
    assert (note in capsys.readouterr().err) == (length < 32)
    with pytest.raises(InputError, match=r"^--episode-length.*expected at most the .* split of .*a.npy, found"):
        build_episodes(own.replace(episode_length=images), CPU)


def test_a_split_of_one_image_is_refused(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (50, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train=levels[:49], test=levels[49:])
    own = Config.preset("array", data_dir=tmp_path / "a.npz", image_size=16)
    with pytest.raises(InputError, match=r"^the test split of .*a.npz: expected 2 images or more, found 1$"):
        build_episodes(own, CPU)


@pytest.mark.parametrize(("likelihood", "channels"), [("bernoulli", 1), ("discretized_logistic", 3)])
def test_arrays_in_colour_become_grey_only_if_they_are_binarized(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], likelihood: str, channels: int
) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8))
    own = Config.preset("array", data_dir=tmp_path / "a.npy", image_size=16, likelihood=likelihood)
    assert build_episodes(own, CPU).train.image_shape == (channels, 16, 16)
    assert ("images in colour become grey" in capsys.readouterr().err) == (channels == 1)


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
