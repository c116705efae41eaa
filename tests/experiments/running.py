"""Running the scripts: in this process, in a fresh one, or as a program."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import inference.runs.training_run
from experiments.shared.script import run_script
from experiments.svi_train import new_config, parse
from inference.runs.interruption import Interruption
from inference.runs.resolve import resolve
from inference.runs.training_run import TrainingRun
from kpp_pyro.files.run_folder import RunFolder
from tests.waiting import HANGS

ROOT = Path(__file__).parents[2]
TINY = ["--width", "32", "--episodes-per-step", "2", "--steps", "6", "--evaluate-every", "3", "--warmup-steps", "2"]
UNCHANGING = ["--learning-rate", "1e-30", "--evaluate-every", "1", "--patience", "2"]
"""Every evaluation finds the bound of the first, so that training ends after step 3."""


def script_of_docs(name: str) -> ModuleType:
    """A script of docs as a module; as for a program, its neighbours can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        return importlib.import_module(name)


@dataclass(frozen=True)
class Finished:
    """What a script left behind."""

    returncode: int
    stdout: str
    stderr: str


def changed(flags: Sequence[Any], *others: Any) -> list[Any]:
    """The flags, each followed by its value, with others in place of those that they repeat."""
    kept = [pair for pair in zip(flags[::2], flags[1::2], strict=True) if pair[0] not in others]
    return [*(text for pair in kept for text in pair), *others]


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "experiments" / script), *map(str, arguments)]


_FRESH = """
import contextlib, io, json, os, runpy, sys

os._exit = sys.exit  # explore.py ends so
ended = []
for sys.argv in json.loads(sys.argv[1]):
    output, errors, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
    ended.append((status, output.getvalue(), errors.getvalue()))
print(json.dumps((ended, list(sys.modules))))
"""


def run_fresh(
    *commands: Sequence[str], root: Path = ROOT, environment: Mapping[str, str] = os.environ
) -> tuple[list[Finished], set[str]]:
    """Run scripts of the project in `root`, one after the other in one fresh process; how they ended, and the modules
    that they imported."""
    absolute = [[str(root / "experiments" / script), *flags] for script, *flags in commands]
    process = subprocess.run(
        [sys.executable, "-c", _FRESH, json.dumps(absolute)],
        capture_output=True,
        text=True,
        cwd=root,
        env=environment,
        timeout=HANGS,
    )
    assert process.returncode == 0, process.stderr
    ended, modules = json.loads(process.stdout)
    return [Finished(*end) for end in ended], set(modules)


def run(script: str, *arguments: object, cwd: Path | None = None) -> Finished:
    """Run a script's main in this process: importing torch anew for each would take most of the suite's time."""
    main = importlib.import_module(f"experiments.{script.removesuffix('.py')}").main
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), contextlib.chdir(cwd or Path.cwd()):
        try:
            status = run_script(lambda: main([*map(str, arguments)]))
        except SystemExit as end:
            status = int(end.code or 0)
    return Finished(status, output.getvalue(), errors.getvalue())


@contextlib.contextmanager
def without_figures() -> Iterator[None]:
    """Train without the figures, which take longer to draw than a small run to train."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plot_figures", "plot_memory_at_work"):
            patch.setattr(inference.runs.training_run, name, lambda *_: {})
        yield


def trained(folder: Path, *flags: object) -> Path:
    """The folder of a run without scores and figures."""
    config = new_config(parse([*map(str, flags), "--device", "cpu"]))
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with without_figures(), quiet[0], quiet[1], Interruption() as interruption:
        TrainingRun(RunFolder(folder), resolve(config)).train(interruption)
    return folder


def refused(process: Finished) -> str:
    assert process.returncode == 2, process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    (sentence,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    return sentence
