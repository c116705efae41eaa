"""The documentation holds: its Python runs, as of small runs, and its commands are those of the scripts."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import kpp_pyro
from experiments import svi_train
from experiments.shared.command_line import parse
from inference import Config, build
from inference.trained_memory import TrainedMemory
from tests.experiments.running import ROOT, TINY, trained

LOGS = {"ablations.md", "experiments.md"}  # of what was measured with earlier versions
README, PYTHON = ROOT / "README.md", ROOT / "docs" / "guides" / "python.md"
PAGES = [
    page
    for page in (README, *sorted((ROOT / "docs").rglob("*.md")))
    if page.name not in LOGS and "results" not in page.parts
]
BLOCK = re.compile(r"^(?:<!-- (.*?) -->\n)?```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""A block of code, and the remark above it: that of a block which another test runs."""


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page that no other test runs."""
    found = BLOCK.findall(page.read_text())
    return [text for remark, kind, text in found if kind == language and not remark]


def named(pages: list[Path]) -> list[Any]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "digits", *TINY)


@pytest.fixture
def folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a page's Python runs, with the runs and the pictures that pages name."""
    (tmp_path / "runs").mkdir()
    for name in ("digits", "mnist", "drawings"):
        (tmp_path / "runs" / name).symlink_to(run)
    for name in ("my_drawings", "drawings"):
        (tmp_path / name).mkdir()
        for number in range(8):
            drawing = 255 * (torch.rand(20, 20, generator=torch.Generator().manual_seed(number)) < 0.3).byte()
            Image.fromarray(drawing.numpy()).save(tmp_path / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_prior() -> SimpleNamespace:
    """An untrained run with a prior of memories."""
    pair = build(Config.preset("digits", memory_prior="autoregressive", width=32), (1, 16, 16)).eval()
    return SimpleNamespace(memory=TrainedMemory(pair.model, pair.guide))


def execute(page: Path) -> dict[str, Any]:
    """Run the Python of a page, block after block; returns what it has defined."""
    names: dict[str, Any] = {"kpp": kpp_pyro}
    for text in blocks(page, "python"):
        run, samples = names.get("run"), "sample_memory" in text
        names["run"] = with_prior() if samples else run
        exec(text, names)
        if samples:
            names["run"] = run
    return names


@pytest.mark.parametrize("page", named([page for page in PAGES if blocks(page, "python") and page != PYTHON]))
def test_the_python_of_a_page_runs(page: Path, folder: Path) -> None:
    execute(page)


def test_the_python_page_makes_what_it_says(folder: Path) -> None:
    names = execute(PYTHON)
    image = (1, 16, 16)  # of the digits
    assert names["images"].shape == names["whole"].shape == (8, *image)
    assert (names["samples"].shape, names["walk"].shape) == ((16, *image), (10, *image))
    assert names["blocks"].shape == (32, *image)
    assert names["episodes"].shape == (16, 8, *image)
    assert names["new"].shape == (100, *image)
    assert names["draws"]["latent"].shape == (8, 1, 32, 100)
    memory = names["run"].memory
    assert (folder / "memory.safetensors").is_file()
    assert len(kpp_pyro.Collection.load("drawings.memory", memory)) == 8


def test_the_ten_lines_are_those_of_the_readme() -> None:
    ten_lines = [text for remark, _, text in BLOCK.findall(PYTHON.read_text()) if remark == "test: ten lines"]
    assert ten_lines == [text for remark, _, text in BLOCK.findall(README.read_text()) if remark == "test: python"]


@pytest.mark.parametrize("page", named([page for page in PAGES if blocks(page, "bash")]))
def test_the_commands_of_a_page_have_flags_that_fit(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    for words in (shlex.split(line, comments=True) for line in lines):
        script = next((word for word in words if word.startswith("experiments/") and word.endswith(".py")), None)
        given = words[words.index(script) + 1 :] if script else []
        if script is None or {"--plugin", "--help"} & set(given):
            continue
        if script.endswith("svi_train.py"):
            flags = svi_train.parse(given)
            of_run = {name: value for name, value in flags.items() if name not in ("out", "dry_run")}
            if not {"resume", "config"} & of_run.keys():
                svi_train.new_config(of_run)
        else:
            parse(importlib.import_module(script.removesuffix(".py").replace("/", ".")).Arguments, given)
