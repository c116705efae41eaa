"""What a script imports before its work begins: little, so that --help and --dry-run answer at once."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.experiments.running import ROOT, command, run_fresh
from tests.experiments.test_scripts import SCRIPTS
from tests.waiting import HANGS

OF_WORK = {
    "PIL.ImageFile",
    "arviz",
    "gradio",
    "h5netcdf",
    "matplotlib",
    "scipy",
    "sklearn",
    "tensorboard",
    "torch._dynamo",
    "torchvision",
    "xarray",
}
OF_TENSORS = {"numpy", "pyro", "torch"}


def imported(*commands: list[str]) -> set[str]:
    """All modules that scripts import, which say something and succeed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "TQDM_"))}
    ended, modules = run_fresh(*commands, environment=environment)
    for process in ended:
        assert process.returncode == 0 and process.stdout, process
    return modules


def test_a_help_imports_no_tensors_where_it_lists_no_parts():
    modules = imported(*([script, "--help"] for script in sorted(SCRIPTS - {"svi_train.py"})))
    assert not (OF_WORK | OF_TENSORS) & modules


def test_a_dry_run_imports_no_library_of_the_work():
    grid = str(ROOT / "experiments" / "configs" / "memories.yaml")
    modules = imported(["svi_train.py", "--help"], ["svi_train.py", "--dry-run"], ["ablate.py", grid, "--dry-run"])
    assert not OF_WORK & modules and modules >= OF_TENSORS


@pytest.mark.parametrize(("variable", "library"), [("MPLBACKEND", "matplotlib"), ("TQDM_MININTERVAL", "tqdm")])
def test_a_variable_that_a_library_cannot_use_ends_in_one_sentence(variable, library):
    script = command("generate.py", "run")
    environment = {**os.environ, variable: "odd"}
    process = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=HANGS)
    assert process.returncode == 2 and not process.stdout
    expected = f"error: environment: expected variables that {library} can use, found others ("
    assert process.stderr.startswith(expected) and process.stderr.count("\n") == 1
