"""What a script imports before its work begins: little, so that --help and --dry-run answer at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.experiments.running import ROOT
from tests.experiments.test_scripts import SCRIPTS

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
PROGRAM = """
import contextlib, io, json, os, runpy, sys

os._exit = sys.exit  # explore.py ends so
for sys.argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert output.getvalue(), sys.argv
print(json.dumps(list(sys.modules)))
"""


def imported(*commands: list[str]) -> set[str]:
    """All modules that scripts import, which run one after the other in one fresh process."""
    absolute = [[str(ROOT / "experiments" / script), *flags] for script, *flags in commands]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "TQDM_"))}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(absolute)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return set(json.loads(process.stdout))


def test_a_help_imports_no_tensors_where_it_lists_no_parts():
    modules = imported(*([script, "--help"] for script in sorted(SCRIPTS - {"svi_train.py"})))
    assert not (OF_WORK | OF_TENSORS) & modules


def test_a_dry_run_imports_no_library_of_the_work():
    grid = str(ROOT / "experiments" / "configs" / "memories.yaml")
    modules = imported(["svi_train.py", "--help"], ["svi_train.py", "--dry-run"], ["ablate.py", grid, "--dry-run"])
    assert not OF_WORK & modules and modules >= OF_TENSORS
