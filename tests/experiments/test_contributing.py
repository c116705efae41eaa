"""The recipes in CONTRIBUTING.md work as they stand there: one new file and one line each, in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import StudentT

from inference import Config, InputError
from inference.runs.registries import REGISTRIES
from inference.tracing import trace_pair
from kpp_pyro.priors import KEY_PRIORS
from tests.experiments.running import ROOT, Finished, run, run_fresh
from tests.plugged import forgotten_after
from tests.programs import random_episodes, small_pair

PACKAGES = ("kpp_pyro", "models", "inference", "experiments")
RECIPE = re.compile(r"^<!-- (file|line): (\S+) -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PARTS = {"dataset": "even_digits", "write": "allocate_from_the_end", "key_prior": "student_t"}


def recipes() -> list[tuple[str, str, str]]:
    return RECIPE.findall((ROOT / "CONTRIBUTING.md").read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with what the recipes add."""
    root = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for kind, name, text in recipes():
        path = root / name
        if kind == "file":
            assert not path.exists() or path.read_text() == text  # somebody is following the recipe here
            path.write_text(text)
        elif text not in path.read_text():
            assert len(text.splitlines()) == 1
            path.write_text(path.read_text() + text)
    return root


@pytest.fixture(scope="module")
def ended(project: Path) -> list[Finished]:
    """Training and scoring of a run of all that was added, help, and what is refused, in one process of the copy."""
    parts = [f"--{name.replace('_', '-')}={value}" for name, value in PARTS.items()]
    of_steps = ["--steps=3", "--evaluate-every=3", "--episodes-per-step=2"]
    tiny = ["--width=16", "--episode-length=8", "--device=cpu", *of_steps]
    commands = (
        ["svi_train.py", *parts, *tiny, "--out", "runs/mine"],
        ["evaluate.py", "runs/mine", "--particles=20", "--limit=16", "--control-particles=0"],
        ["svi_train.py", "--help"],
        ["svi_train.py", "--key-prior=student_t", "--objective=mean_field"],
    )
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    return run_fresh(*commands, root=project, environment=environment)[0]


def test_each_recipe_is_one_new_file_and_one_line() -> None:
    kinds = [kind for kind, _, _ in recipes()]
    assert kinds == ["file", "line"] * len(PARTS)


def test_a_run_of_all_that_was_added_trains_and_is_scored(project: Path, ended: list[Finished]) -> None:
    trained, scored, *_ = ended
    assert trained.returncode == 0, trained.stderr
    config = json.loads((project / "runs" / "mine" / "config.json").read_text())["config"]
    assert {"even_digits", "allocate_from_the_end", "student_t"} <= {
        value for part in config.values() if isinstance(part, dict) for value in part.values() if isinstance(value, str)
    }
    assert scored.returncode == 0, scored.stderr
    assert "nats per image" in scored.stdout


def test_the_command_line_offers_what_was_added(ended: list[Finished]) -> None:
    *_, offered, refused = ended
    assert all(name in offered.stdout for name in PARTS.values())
    assert refused.returncode == 2
    assert "--key-prior: expected a normal with --objective mean_field" in refused.stderr


def test_what_was_added_passes_the_linter_and_is_annotated(project: Path) -> None:
    """mypy would take a minute; that nothing lacks an annotation is what it would find first."""
    changed = [str(project / name) for _, name, _ in recipes()]
    for check in (["check", "--extend-select=ANN"], ["format", "--check"]):
        linted = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--no-cache", *changed],
            capture_output=True,
            text=True,
            cwd=project,
            check=False,
        )
        assert linted.returncode == 0, linted.stdout


def test_the_same_files_are_plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for field, name in PARTS.items():
        monkeypatch.delitem(REGISTRIES[field].parts, name, raising=False)
    files = {tmp_path / Path(name).name: text for kind, name, text in recipes() if kind == "file"}
    for path, text in files.items():
        path.write_text(text)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in PARTS.items()]
    with forgotten_after():
        dry = run("svi_train.py", "--dry-run", *flags, *(f"--plugin={path}" for path in files))
    assert dry.returncode == 0, dry.stderr
    assert "student_t" not in KEY_PRIORS


@pytest.fixture
def student_t(monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the recipe of the prior here; what it registers is forgotten after the test."""
    (text,) = [text for kind, name, text in recipes() if kind == "file" and name.endswith("student_t.py")]
    monkeypatch.setitem(KEY_PRIORS, "student_t", None)
    exec(text, {})
    return "student_t"


def test_the_prior_s_density_takes_the_place_of_the_normal(student_t: str) -> None:
    episode, pairs = random_episodes(), {}
    for prior in (student_t, "standard_normal"):
        torch.manual_seed(0)
        pair = small_pair("feed_forward", key_prior=prior)
        torch.manual_seed(1)
        pairs[prior] = trace_pair(pair.model, pair.guide, episode)
    key = pairs[student_t].value("key")
    assert torch.equal(key, pairs["standard_normal"].value("key"))
    density = StudentT(5.0).log_prob(key).sum((-2, -1))
    torch.testing.assert_close(pairs[student_t].log_probs().prior["key"], density, check_dtype=False)
    assert not torch.allclose(pairs["standard_normal"].log_probs().prior["key"], density)


def test_closed_kls_are_refused_as_there_is_none(student_t: str) -> None:
    with pytest.raises(InputError, match=f"--key-prior: expected a normal .* found {student_t}"):
        Config.preset(key_prior=student_t, write="feed_forward", objective="mean_field")
