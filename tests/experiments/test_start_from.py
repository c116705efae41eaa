"""Training that starts from the parameters of another run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from inference.api import load, train
from inference.runs.config import Config
from inference.runs.load import start_from
from kpp_pyro.errors import InputError
from tests.programs import SMALL

SHORT = {"dataset": "digits", "steps": 2, "episodes_per_step": 1, "evaluate_every": 2, "logger": "none"}


def short(**changes: object) -> Config:
    return Config.preset(**SHORT).replace(**SMALL, **changes)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(short(), tmp_path_factory.mktemp("runs") / "first").folder.path


def test_parameters_are_those_of_the_run_and_new_parts_start_as_usual(first, tmp_path, capsys):
    config = short(start_from=first, encoder_steps=1, seed=1, learning_rate=1e-12)
    found, given = (load(path).pair.state_dict() for path in (train(config, tmp_path / "run").folder.path, first))
    for name, value in given.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)
    assert {name for name in found if name not in given} == {name for name in found if "ascent" in name}
    note = f"note: 5 of {len(found)} tensors of parameters are not those of --start-from, and start as usual: guide."
    assert note in capsys.readouterr().err


def test_a_resumed_run_goes_on_without_the_run_that_it_started_from(first, tmp_path):
    start = Path(shutil.copytree(first, tmp_path / "start"))
    folder = train(short(start_from=start, learning_rate=1e-2), tmp_path / "run").folder.path
    shutil.rmtree(start)
    before = torch.load(folder / "checkpoint.pt", weights_only=True)
    train(short(start_from=start, learning_rate=1e-2, steps=3), folder, resume=True)
    after = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert (before["step"], after["step"]) == (2, 3)
    moved = max((after["pair"][name] - value).abs().max().item() for name, value in before["pair"].items())
    assert 0 < moved < 0.05  # one step


def test_what_is_no_start_is_refused_and_leaves_nothing(first, tmp_path):
    missing = tmp_path / "none"
    with pytest.raises(InputError, match=re.escape(f"--start-from: {missing}: expected a run folder")):
        train(short(start_from=missing), tmp_path / "run")
    damaged = Path(shutil.copytree(first, tmp_path / "damaged"))
    state = torch.load(damaged / "best.pt", weights_only=True)
    next(iter(state["pair"].values())).fill_(torch.nan)
    torch.save(state, damaged / "best.pt")
    with pytest.raises(InputError, match=re.escape(f"--start-from: {damaged / 'best.pt'}: ") + ".*finite"):
        train(short(start_from=damaged), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(InputError, match=r"--start-from: .*: expected a run with parameters of this model"):
        start_from(torch.nn.Linear(3, 5), first)  # type: ignore[arg-type]  # of no names in common
