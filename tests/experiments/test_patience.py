"""Training that ends early, where the validation bound no longer improves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kpp_pyro.files.checkpoint import load_checkpoint, save_checkpoint
from tests.experiments.running import TINY, UNCHANGING, changed, run

pytestmark = pytest.mark.usefixtures("no_figures")


def evaluated(folder: Path) -> list[tuple[int, str]]:
    """Steps and splits of the evaluations."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["split"]) for record in records if record["split"] != "train"]


def test_a_run_whose_bound_does_not_improve_ends_early_and_takes_more_steps_with_more_patience_only(tmp_path):
    folder = tmp_path / "run"
    process = run("svi_train.py", *changed(TINY, *UNCHANGING), "--out", folder)
    sentence = (
        "Training ends after step 3 of 6: the validation bound has not improved in 2 evaluations (--patience 2)\n"
    )
    assert process.returncode == 0 and sentence in process.stdout and "Test ELBO" in process.stdout
    ended = [(1, "validation"), (2, "validation"), (3, "validation"), (1, "test")]
    assert evaluated(folder) == ended
    before = (folder / "checkpoint.pt").read_bytes()
    process = run("svi_train.py", "--resume", folder)
    assert process.returncode == 0 and sentence in process.stdout
    assert (folder / "checkpoint.pt").read_bytes() == before and evaluated(folder) == ended
    assert "after step 4 of 6" in run("svi_train.py", "--resume", folder, "--patience", 3).stdout
    process = run("svi_train.py", "--resume", folder, "--patience", "None")
    assert process.returncode == 0 and "Training ends" not in process.stdout
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 6 and evaluated(folder)[-1] == (1, "test")


def test_a_resumed_run_ends_where_one_without_a_break_does(tmp_path):
    straight, folder = tmp_path / "straight", tmp_path / "resumed"
    assert run("svi_train.py", *changed(TINY, *UNCHANGING), "--out", straight).returncode == 0
    assert run("svi_train.py", *changed(TINY, *UNCHANGING[:-2], "--steps", 2), "--out", folder).returncode == 0
    assert load_checkpoint(folder / "checkpoint.pt")["evaluations_since_best"] == 1
    assert run("svi_train.py", "--resume", folder, "--steps", 6, "--patience", 2).returncode == 0
    first, second = (load_checkpoint(path / "checkpoint.pt") for path in (straight, folder))
    assert first["step"] == second["step"] == 3
    assert first["evaluations_since_best"] == second["evaluations_since_best"] == 2
    assert all(torch.equal(value, second["pair"][name]) for name, value in first["pair"].items())


def test_a_better_bound_begins_the_count_anew_and_checkpoints_of_earlier_versions_have_none(tmp_path):
    folder = tmp_path / "run"
    flags = changed(TINY, "--evaluate-every", 1, "--patience", 1, "--warmup-steps", 0)
    assert run("svi_train.py", *flags, "--out", folder).returncode == 0
    state = load_checkpoint(folder / "checkpoint.pt")
    assert state["step"] == 6 and state["evaluations_since_best"] == 0
    del state["evaluations_since_best"], state["format"], state["version"]
    save_checkpoint(folder / "checkpoint.pt", state)
    assert run("svi_train.py", "--resume", folder).returncode == 0
