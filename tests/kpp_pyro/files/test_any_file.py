"""Property: whatever a file of a run or of a memory holds, it is read, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpp_pyro.errors import InputError
from kpp_pyro.files.checkpoint import read_checkpoint, save_checkpoint
from kpp_pyro.files.memories import load_memory, save_memory
from kpp_pyro.files.run_folder import RunFolder
from kpp_pyro.files.run_schemas import BestCheckpoint
from tests.kpp_pyro.files.nested import changed, places
from tests.kpp_pyro.files.reports import REPORTS

some_time = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
numbers = st.integers() | st.floats() | st.integers(-(10**40), 10**40)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def reads_or_refuses(read: Any, path: Path) -> None:
    try:
        read()
    except InputError as error:
        assert str(error).startswith(f"{path}: expected ") and ", found " in str(error) and "\n" not in str(error)
        assert len(str(error)) < len(str(path)) + 300


READERS = {"evaluate": "evaluation", "denoise": "denoising", "generate": "generation", "from_prior": "from_prior"}


@pytest.mark.parametrize("script", REPORTS)
@some_time
@given(data=st.data())
def test_any_value_at_any_place_of_a_report(script, data, tmp_path):
    run = RunFolder(tmp_path)
    path, read = getattr(run, READERS[script]), getattr(run, f"read_{READERS[script]}")
    content = changed(REPORTS[script], data.draw(st.sampled_from(places(REPORTS[script]))), data.draw(json_values))
    path.write_text(json.dumps(content))
    reads_or_refuses(read, path)


@some_time
@given(st.dictionaries(st.sampled_from(["step", "split", "elbo", ""]), json_values) | json_values)
def test_any_line_of_metrics(tmp_path, line):
    run = RunFolder(tmp_path)
    run.metrics.write_text(json.dumps(line) + "\n")
    reads_or_refuses(run.read_metrics, run.metrics)
    for record in (run.metrics.exists() and _readable(run)) or []:
        assert record["step"] >= 0 and record["split"] in ("train", "validation", "test")


def _readable(run: RunFolder) -> list[dict[str, Any]]:
    try:
        return run.read_metrics()
    except InputError:
        return []


CONFIG = {"version": 2, "config": {"seed": 1}, "sizes": {"image_shape": [1, 8, 8]}, "earlier_environments": []}


@some_time
@given(st.sampled_from(places(CONFIG)), json_values)
def test_any_value_at_any_place_of_a_configuration(tmp_path, place, value):
    run = RunFolder(tmp_path)
    run.config.write_text(json.dumps(changed(CONFIG, place, value)))
    reads_or_refuses(run.read_config, run.config)
    reads_or_refuses(run.read_image_shape, run.config)


@some_time
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path, content):
    run, memory = RunFolder(tmp_path), tmp_path / "memory"
    for path, read in {
        run.config: run.read_config,
        run.metrics: run.read_metrics,
        run.evaluation: run.read_evaluation,
        run.best: lambda: read_checkpoint(run.best, BestCheckpoint),
        memory: lambda: load_memory(memory),
    }.items():
        path.write_bytes(content)
        reads_or_refuses(read, path)


@pytest.mark.parametrize("kind", ["checkpoint", "memory"])
@some_time
@given(data=st.data())
def test_any_byte_of_a_tensor_file_changed(kind, data, tmp_path):
    path = tmp_path / kind
    if kind == "checkpoint":
        save_checkpoint(path, {"step": 1, "pair": {"weight": torch.arange(6.0)}})
    else:
        save_memory(path, torch.arange(6.0), "author")
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else content)
    read = {"checkpoint": lambda: read_checkpoint(path, BestCheckpoint), "memory": lambda: load_memory(path)}[kind]
    reads_or_refuses(read, path)
