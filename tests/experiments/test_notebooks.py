"""Every notebook is run in small, and what is committed of it is a whole run; a notebook not listed here fails."""

from __future__ import annotations

import os
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tests.experiments.running import ROOT, changed, trained
from tests.experiments.running import TINY as TINY_RUN
from tests.waiting import HANGS

NOTEBOOKS = ROOT / "experiments" / "notebooks"
TINY: dict[str, dict[str, object]] = {  # of every notebook, in place of its parameters; RUN_FOLDER is a new folder
    "memory_at_work": {"RUN": "RUN_FOLDER", "STEPS": 10},
    "quickstart": {"RUN": "RUN_FOLDER", "STEPS": 10, "LIMIT": 3, "PARTICLES": 30, "CONTROL_PARTICLES": 2},
    "posterior_diagnostics": {
        "RUN": None,
        "NEW_RUN": "RUN_FOLDER",
        "STEPS": 10,
        "PARTICLES": 40,
        "IMAGES": 2,
        "REFINE_STEPS": 2,
        "CHAINS": 2,
        "WARMUP": 2,
        "DRAWS": 4,
        "MAX_TREE_DEPTH": 2,
    },
}
MOST_BYTES = 1_000_000
_HERE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|mnt|usr|opt|Users|var)/|[A-Z]:\\\\Users")  # paths of a machine


class ThisInterpreter(AsyncKernelManager):
    """Kernels in the Python that runs the tests, whichever are registered on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="this interpreter", language="python")


@dataclass(frozen=True)
class Executed:
    """A notebook that was run in small: cells with outputs, where it was started, and the folder of its run."""

    notebook: nbformat.NotebookNode
    start: Path
    run: Path


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Executed]:
    """Every notebook by its name, run side by side: each spends most of its time on importing torch."""
    starts = {name: tmp_path_factory.mktemp(name) for name in TINY}
    with ThreadPoolExecutor(len(TINY)) as pool:
        return dict(zip(TINY, pool.map(execute, starts, starts.values()), strict=True))


def execute(name: str, start: Path) -> Executed:
    """Run every cell in order, with small parameters, in a kernel that starts outside of the repository."""
    notebook, run = read(name), start / "run"
    values = {key: str(run) if value == "RUN_FOLDER" else value for key, value in TINY[name].items()}
    code_cells(notebook)[0].source = "\n".join(f"{key} = {value!r}" for key, value in values.items())
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    limits, where = {"timeout": HANGS, "startup_timeout": HANGS}, {"metadata": {"path": str(start)}}
    client = NotebookClient(notebook, km=ThisInterpreter(), resources=where, **limits)
    client.execute(env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    return Executed(notebook, start, run)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def pictures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def noise(notebook: nbformat.NotebookNode) -> list[str]:
    """Warnings and progress bars."""
    return [output.text for output in outputs(notebook) if output.get("name") == "stderr"]


def assigned(source: str) -> dict[str, Any]:
    """Names and values that a cell of assignments leaves."""
    names: dict[str, Any] = {}
    exec(source, {}, names)
    return names


def test_every_notebook_is_listed_here():
    assert {path.stem for path in NOTEBOOKS.rglob("*.ipynb") if "checkpoint" not in path.name} == set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_the_first_cell_holds_the_parameters(name):
    first = code_cells(read(name))[0]
    assert first.metadata.tags == ["parameters"]
    assert assigned(first.source).keys() == TINY[name].keys()


@pytest.mark.parametrize("name", TINY)
def test_a_notebook_runs_from_top_to_bottom(name, executed):
    found = executed[name]  # a cell that fails raises
    assert pictures(found.notebook) == pictures(read(name)) > 3
    assert not noise(found.notebook)
    assert (found.run / "config.json").is_file()
    assert list(found.start.iterdir()) == [found.run]


LEVELS = ["--likelihood", "discretized_logistic"]
NO_MEMORY, NO_CONTROL, NO_BLOCKS = "has no memory: no figure", "No image can be left out", "has no blocks"
RUNS = {  # flags, and what the model lacks
    "feed forward": (["--write", "feed_forward"], set()),
    "by content, two reads": (["--write", "allocate_by_content", "--reads", "2", "--block-width", "2"], set()),
    "256 levels": (LEVELS, set()),
    "single images": (["--episode-length", "1"], {NO_CONTROL}),
    "Kanerva Machine": (["--model", "kanerva_machine"], {NO_BLOCKS}),
    "Dynamic Kanerva Machine, 256 levels": (["--model", "dynamic_kanerva_machine", *LEVELS], {NO_BLOCKS}),
    "Pseudo-Inverse Memory": (["--model", "pseudo_inverse_memory"], {NO_BLOCKS}),
    "VAE": (["--model", "vae"], {NO_MEMORY, NO_CONTROL, NO_BLOCKS}),
    "VAE, 256 levels": (["--model", "vae", *LEVELS], {NO_MEMORY, NO_CONTROL, NO_BLOCKS}),
    "two-layer VAE": (["--model", "two_layer_vae"], {NO_MEMORY, NO_CONTROL, NO_BLOCKS}),
}


@pytest.mark.parametrize("kind", RUNS)
def test_posterior_diagnostics_run_on_every_model_and_say_what_it_lacks(kind, tmp_path, capsys, monkeypatch):
    flags, lacks = RUNS[kind]
    small = changed(TINY_RUN, "--steps", "3", "--episode-length", "8")
    run = trained(tmp_path / "run", *changed(small, *flags))
    monkeypatch.chdir(tmp_path)  # the notebook changes the folder
    names: dict[str, Any] = {**TINY["posterior_diagnostics"], "RUN": str(run), "display": lambda _: None}
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # of draws that are too few
        matplotlib.use("agg")
        for cell in code_cells(read("posterior_diagnostics"))[1:]:
            exec(cell.source.replace("%matplotlib inline", ""), names)
        plt.close("all")
    printed = capsys.readouterr().out
    assert {sentence for sentence in (NO_MEMORY, NO_CONTROL, NO_BLOCKS) if sentence in printed} == lacks
    assert names["nuts"].keys() == ({"key free", "key held"} if names["guide"].has_keys else {"latent"})
    assert names["own"].log_likelihood.isfinite().all() and names["gap"].notna().all()


@pytest.mark.parametrize("name", TINY)
def test_a_committed_notebook_is_a_whole_run_in_order_without_noise(name):
    notebook = read(name)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data", "execute_result"}
    assert not noise(notebook)
    assert pictures(notebook) > 3
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", TINY)
def test_a_committed_notebook_is_small_and_says_nothing_of_the_machine(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    assert path.stat().st_size < MOST_BYTES
    notebook = read(name)
    for output in outputs(notebook):
        output.get("data", {}).pop("image/png", None)  # base64 has slashes of its own
    text = nbformat.writes(notebook)
    assert not _HERE.findall(text)
    assert str(Path.home()) not in text
    assert str(ROOT) not in text
