"""The threads of a program: chosen where its work begins, and kept when a run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inference import threads
from tests.experiments.running import TINY, changed, run, without_figures


@pytest.fixture(autouse=True)
def _machine_of_two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def begin(monkeypatch: pytest.MonkeyPatch, idle: int) -> None:
    """As a new program begins: with a thread for each of two cores, so many of which are idle."""
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "idle_cores", lambda: idle)


def threads_of(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text())["environment"]["cpu_threads"]


def test_training_and_scoring_choose_their_threads_and_a_resumed_run_keeps_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    begin(monkeypatch, idle=1)
    with without_figures():
        assert (
            run("svi_train.py", *changed(TINY, "--precision", "float32", "--steps", 4), "--out", folder).returncode == 0
        )
    assert threads_of(folder) == torch.get_num_threads() == 1
    begin(monkeypatch, idle=2)
    with without_figures():
        assert run("svi_train.py", "--resume", folder, "--steps", 5).returncode == 0
    assert threads_of(folder) == torch.get_num_threads() == 1
    begin(monkeypatch, idle=1)
    arguments = ["--particles", 2, "--limit", 2, "--control-particles", 0, "--posterior-images", 0]
    assert run("evaluate.py", folder, *arguments).returncode == 0
    assert torch.get_num_threads() == 1


def test_a_dry_run_watches_nothing(monkeypatch):
    begin(monkeypatch, idle=1)
    assert run("svi_train.py", "--dry-run").returncode == 0
    assert torch.get_num_threads() == 2
