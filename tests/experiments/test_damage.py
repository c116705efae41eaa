"""Damaged files of a run: every script that reads them refuses in one sentence, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kpp_pyro.files.checkpoint import load_checkpoint, save_checkpoint
from kpp_pyro.files.run_folder import RunFolder, write_json
from tests.experiments.running import TINY, refused, run, trained, without_figures
from tests.kpp_pyro.files.nested import at, changed
from tests.kpp_pyro.files.reports import REPORTS

READERS = {
    "svi_train.py": ["--resume", "RUN"],
    "evaluate.py": ["RUN", "--limit", "1"],
    "denoise.py": ["RUN", "--limit", "1"],
    "generate.py": ["RUN"],
    "draw_figures.py": ["RUN"],
    "pack_weights.py": ["RUN", "--out", "PACKED"],
    "recall.py": ["RUN", "--write", "RUN", "--out", "PACKED"],
}
READERS_OF_METRICS = {"svi_train.py": ["--resume", "RUN"], "compare_runs.py": ["RUN", "--out", "PNG"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = RunFolder(trained(tmp_path_factory.mktemp("runs") / "whole", *TINY))
    for path, script in zip(reports(folder), REPORTS, strict=True):
        write_json(path, REPORTS[script])
    return folder.path


def reports(folder: RunFolder) -> tuple[Path, ...]:
    """The files of the reports, in the order of REPORTS."""
    return folder.evaluation, folder.denoising, folder.generation, folder.from_prior


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(whole, tmp_path / "run"))


def refusal(script: str, arguments: list[str], folder: RunFolder) -> str:
    """The sentence of a script that refuses a run; the run's files are those of before."""
    places = {"RUN": folder.path, "PACKED": folder.path.with_name("packed"), "PNG": folder.path.with_name("packed.png")}
    before = contents(folder.path)
    with without_figures():
        sentence = refused(run(script, *(places.get(word, word) for word in arguments)))
    assert contents(folder.path) == before
    assert not list(folder.path.parent.glob("packed*"))
    return sentence


def contents(folder: Path) -> dict[str, bytes | None]:
    """What each file holds; None for what is no file."""
    files = {path.name: path for path in folder.iterdir() if path.name != ".lock"}
    return {name: path.read_bytes() if path.is_file() else None for name, path in files.items()}


def replaced(*place: Any, value: Any) -> Callable[[Any], Any]:
    """A change of nested content: another value at a place; `...` deletes it."""
    return lambda content: changed(content, place, value)


CONFIGS: dict[str, Any] = {
    "empty": b"",
    "half": b'{"version": 2, "config": {"da',
    "no text": b"\xff\xfe\x00",
    "nested": b"[" * 100_000,
    "a number": b"3",
    "null": b"null",
    "no configuration": replaced("config", value=...),
    "a list for a part": replaced("config", "memory", value=[1]),
    "null for a part": replaced("config", "training", value=None),
    "an unknown part": replaced("config", "extra", value={}),
    "text for a number": replaced("config", "memory", "memory_height", value="twenty"),
    "null for a number": replaced("config", "data", "episode_length", value=None),
    "a truth for a number": replaced("config", "network", "width", value=True),
    "a fraction": replaced("config", "network", "depth", value=1.5),
    "not a number": replaced("config", "training", "learning_rate", value=float("nan")),
    "beyond all bounds": replaced("config", "network", "width", value=10**30),
    "beyond the memory": replaced("config", "network", "width", value=2**16),
    "another name": replaced("config", "program", "model", value="hopfield"),
    "an unknown field": replaced("config", "data", "stepz", value=3),
    "text for the version": replaced("version", value="2"),
    "another version": replaced("version", value=99),
}


@pytest.mark.parametrize("damage", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("script", READERS)
def test_a_damaged_configuration_is_refused_by_every_script(script, damage, copied):
    damage_file(copied.config, damage)
    sentence = refusal(script, READERS[script], copied)
    assert str(copied.config) in sentence or (script == "svi_train.py" and "fit into" in sentence)


def damage_file(path: Path, damage: Any) -> None:
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        path.write_text(json.dumps(damage(json.loads(path.read_text()))))


KINDS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "loop of links": lambda path: path.symlink_to(path),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", ["config", "best", "checkpoint"])
def test_what_is_no_file_is_refused(name, kind, copied):
    path: Path = getattr(copied, name)
    path.unlink()
    kind(path)
    script = {"config": "pack_weights.py", "best": "evaluate.py", "checkpoint": "svi_train.py"}[name]
    assert str(copied.path) in refusal(script, READERS[script], copied)


METRICS = {
    "text for a number": b'{"step": "1", "split": "train"}\n',
    "a negative step": b'{"step": -1, "split": "train"}\n',
    "no split": b'{"step": 1}\n',
    "text for a quantity": b'{"step": 1, "split": "validation", "elbo_nats_per_image": "high"}\n',
    "not a number": b'{"step": 1, "split": "train", "loss": NaN}\n',
    "no JSON": b"step 1\n",
    "nested": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("damage", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("script", READERS_OF_METRICS)
def test_damaged_metrics_are_refused(script, damage, copied):
    copied.metrics.write_bytes(damage + copied.metrics.read_bytes())
    assert f"{copied.metrics}: " in refusal(script, READERS_OF_METRICS[script], copied)


@pytest.mark.parametrize("number", range(len(REPORTS)))
def test_a_damaged_report_is_refused_before_anything_is_drawn(number, copied):
    path = reports(copied)[number]
    for damage in (b"", b"[1]", b'{"settings": null}', b'{"settings": {"split": 3}, "results": []}'):
        path.write_bytes(damage)
        assert str(path) in refusal("draw_figures.py", READERS["draw_figures.py"], copied)


def first(state: dict[str, Any]) -> str:
    return next(iter(state["pair"]))


def with_value(part: str, change: Callable[[torch.Tensor], Any]) -> Callable[[Any], Any]:
    """A change of the first tensor of the parameters, or of the optimiser's first moments."""

    def damage(state: Any) -> Any:
        place = ("pair", first(state)) if part == "pair" else ("optimizer", 0, part)
        return changed(state, place, change(at(state, place)))

    return damage


def set_one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone().index_fill_(0, torch.tensor([0]), value)

    return change


PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "no step": replaced("step", value=...),
    "text for the step": replaced("step", value="3"),
    "a negative step": replaced("step", value=-1),
    "no parameters": replaced("pair", value=...),
    "a list of parameters": replaced("pair", value=[1, 2]),
    "null": with_value("pair", lambda _: None),
    "a number": with_value("pair", lambda _: 3.0),
    "NaN": with_value("pair", set_one(float("nan"))),
    "infinity": with_value("pair", set_one(float("inf"))),
    "another shape": with_value("pair", lambda tensor: tensor[:-1]),
    "another dtype": with_value("pair", lambda tensor: tensor.double()),
    "complex": with_value("pair", lambda tensor: tensor.to(torch.complex64)),
    "sparse": with_value("pair", lambda tensor: tensor.to_sparse()),
    "meta": with_value("pair", lambda tensor: tensor.to("meta")),
    "a parameter too many": replaced("pair", "extra", value=torch.zeros(1)),
    "a parameter too few": lambda state: changed(state, ("pair", first(state)), ...),
}
STATES: dict[str, Callable[[Any], Any]] = {
    **PARAMETERS,
    "steps beyond the run": replaced("step", value=10**9),
    "text for seconds": replaced("training_seconds", value="long"),
    "NaN for seconds": replaced("waited_seconds", value=float("nan")),
    "NaN for the best ELBO": replaced("best_elbo_nats_per_image", value=float("nan")),
    "no processes": replaced("processes", value=[]),
    "a mapping of processes": replaced("processes", value={}),
    "numbers for processes": replaced("processes", value=[1]),
    "no episodes": replaced("processes", 0, "episodes", value={}),
    "no random state": replaced("processes", 0, "random", value={}),
    "half a random state": replaced("processes", 0, "random", "cpu", value=torch.zeros(100, dtype=torch.uint8)),
    "numbers for a random state": replaced("processes", 0, "random", "cpu", value=torch.zeros(5056)),
    "half a state of pixels": replaced("processes", 0, "episodes", "pixels", value=torch.zeros(17, dtype=torch.uint8)),
    "episodes beyond a shuffle": replaced("processes", 0, "episodes", "taken", value=torch.tensor(10**9)),
    "a negative number of episodes": replaced("processes", 0, "episodes", "taken", value=torch.tensor(-1)),
    "two numbers of episodes": replaced("processes", 0, "episodes", "taken", value=torch.tensor([1, 2])),
    "other images": replaced("processes", 0, "episodes", "images", value=torch.tensor(5)),
    "a list for the optimiser": replaced("optimizer", value=[]),
    "no state of the optimiser": replaced("optimizer", value={}),
    "an unknown parameter": replaced("optimizer", 10**6, value={}),
    "no moments": replaced("optimizer", 0, value={}),
    "moments of another shape": with_value("exp_avg", lambda tensor: tensor[:-1]),
    "moments of another dtype": with_value("exp_avg_sq", lambda tensor: tensor.double()),
    "moments that are not finite": with_value("exp_avg_sq", set_one(float("inf"))),
    "steps of another shape": with_value("step", lambda tensor: torch.zeros(3)),
}


@pytest.mark.parametrize("damage", STATES.values(), ids=STATES)
def test_a_damaged_checkpoint_is_not_resumed(damage, copied):
    save_checkpoint(copied.checkpoint, damage(load_checkpoint(copied.checkpoint)))
    sentence = refusal("svi_train.py", READERS["svi_train.py"], copied)
    assert str(copied.checkpoint) in sentence or "--steps" in sentence


@pytest.mark.parametrize("damage", PARAMETERS.values(), ids=PARAMETERS)
def test_damaged_parameters_are_refused(damage, copied):
    save_checkpoint(copied.best, damage(load_checkpoint(copied.best)))
    assert str(copied.best) in refusal("evaluate.py", READERS["evaluate.py"], copied)


@pytest.mark.parametrize("script", [script for script in READERS if script != "svi_train.py"])
def test_damaged_parameters_are_refused_by_every_script(script, copied):
    for damage in ("a number", "NaN", "another shape"):
        save_checkpoint(copied.best, PARAMETERS[damage](load_checkpoint(copied.best)))
        assert str(copied.best) in refusal(script, READERS[script], copied)
        save_checkpoint(copied.best, load_checkpoint(copied.checkpoint))
