"""Packages of others that have the names of ours, in the folder where Python starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.experiments.running import ROOT
from tests.waiting import HANGS

OURS = "import kpp_pyro, models, inference, experiments"


def imported(folder: Path) -> subprocess.CompletedProcess[str]:
    """Import our packages, as installed, where a folder of others goes before them."""
    program = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; {OURS}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, timeout=HANGS)


def test_another_package_of_models_is_named(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    process = imported(tmp_path)
    assert process.returncode == 1
    expected = f"ImportError: models: expected this project's package in {ROOT}, found {tmp_path / 'models'}"
    assert process.stderr.splitlines()[-1].startswith(expected)


def test_a_folder_of_models_that_is_no_package_is_in_nobodys_way(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.pt").touch()
    process = imported(tmp_path)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
