"""A run folder, opened: as a memory it is the same as with its data set, which need not be there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from inference.runs import load as loading
from inference.runs.load import load
from inference.trained_memory import Memory
from kpp_pyro.errors import InputError
from kpp_pyro.files.checkpoint import load_checkpoint, save_checkpoint
from tests.experiments.running import TINY, changed, trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained, but has neither figures nor scores."""
    return trained(tmp_path_factory.mktemp("runs") / "digits", *changed(TINY, "--evaluate-every", "6"))


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


def forget_data(monkeypatch):
    def build_episodes(*_):
        raise AssertionError("the data set was asked for")

    monkeypatch.setattr(loading, "build_episodes", build_episodes)


def change_config(folder, change):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_run_opened_as_a_memory_writes_and_recalls_as_the_run_does(folder, monkeypatch, tmp_path):
    opened = load(folder, "cpu")
    images, _ = next(opened.episodes.test.batches(2))
    with_data = opened.memory
    forget_data(monkeypatch)
    without_data = load(folder, "cpu").memory
    assert without_data.fingerprint == with_data.fingerprint
    assert without_data.image_shape == with_data.image_shape == tuple(images.shape[-3:])
    memory = without_data.write(images)
    assert torch.equal(memory.value, with_data.write(images).value)
    cues = images.clone()
    cues[..., :4, :] = 0
    for found, expected in zip(without_data.recall(memory, cues, 2), with_data.recall(memory, cues, 2), strict=True):
        for name in ("keys", "latents", "images"):
            assert torch.equal(getattr(found, name), getattr(expected, name))
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    assert torch.equal(with_data.load(path).value, memory.value)
    assert Memory.load(path).author == with_data.fingerprint


def test_the_parameters_are_those_of_the_best_checkpoint(copied):
    best = load_checkpoint(copied / "best.pt")
    best["pair"] = {name: value + 0.25 for name, value in best["pair"].items()}  # so that the last one is another
    save_checkpoint(copied / "best.pt", best)
    changed = load(copied, "cpu").memory
    for part, name in ((changed.model, "model"), (changed.guide, "guide")):
        state = part.state_dict()
        assert {f"{name}.{key}" for key in state} == {key for key in best["pair"] if key.startswith(f"{name}.")}
        assert all(torch.equal(value, best["pair"][f"{name}.{key}"]) for key, value in state.items())


def test_the_folder_of_the_data_set_need_not_be_there(copied, folder, monkeypatch, tmp_path):
    forget_data(monkeypatch)
    change_config(copied, lambda content: content["config"]["data"].update(data_dir=str(tmp_path / "nowhere")))
    assert load(str(copied), "cpu").memory.fingerprint == load(folder, "cpu").memory.fingerprint


def test_a_folder_that_is_no_whole_run_is_refused(copied, tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path / 'nowhere'}: expected a run folder"):
        load(tmp_path / "nowhere", "cpu")
    (copied / "best.pt").rename(copied / "moved.pt")
    with pytest.raises(InputError, match=f"^{re.escape(str(copied / 'best.pt'))}: expected "):
        load(copied, "cpu")
    change_config(copied, lambda content: content["sizes"].pop("image_shape"))
    with pytest.raises(InputError, match=f"^{re.escape(str(copied / 'config.json'))}: .* found no sizes.image_shape$"):
        load(copied, "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_parameters_that_are_not_finite_are_refused(copied, value):
    checkpoint = load_checkpoint(copied / "best.pt")
    name = next(iter(checkpoint["pair"]))
    checkpoint["pair"][name].view(-1)[0] = value
    save_checkpoint(copied / "best.pt", checkpoint)
    sentence = f"{copied / 'best.pt'}: parameters: expected finite numbers of at most 1e+12, found others in {name}"
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        load(copied, "cpu")


@pytest.mark.parametrize("device", ["nothing", "mps", "xpu", "vulkan", "meta", "cpu:3", "cuda:-1", "cuda:99", ""])
def test_a_device_that_is_none_of_this_machine_gets_a_sentence(folder, device):
    with pytest.raises(InputError, match=r"^--device.*: expected .* found "):
        load(folder, device)


def test_a_device_may_be_torchs(folder):
    assert load(folder, torch.device("cpu")).pair.device == torch.device("cpu")


def test_a_checkpoint_of_a_model_of_another_size_is_refused(copied):
    change_config(copied, lambda content: content["config"]["network"].update(width=48))
    with pytest.raises(
        InputError, match=f"^{re.escape(str(copied / 'best.pt'))}: parameters: expected .* to be float32"
    ):
        load(copied, "cpu")
