"""The benchmark: what it writes is what it prints, and its parts measure what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.shared.speed import input, memories, steps
from experiments.shared.speed.growth import Axis, measure_growth, peak_mebibytes, slopes
from experiments.shared.speed.memories import OPERATIONS, configs, operations
from experiments.shared.speed.timing import alternate, ratio, spread
from experiments.shared.speed.workload import configuration, pyro_trainer, random_images
from inference.runs.config import Config
from kpp_pyro.plots import plot_growth, plot_memory_costs
from kpp_pyro.writes import WRITES
from models.build import build
from models.registry import MODELS
from tests.experiments.running import refused, run

CPU = torch.device("cpu")
MEBIBYTE = 2**18  # numbers of float32


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    out = tmp_path_factory.mktemp("benchmark") / "benchmark.json"
    sections = ("steps", "parts", "memories", "input")
    with pytest.MonkeyPatch.context() as patch:
        for module in (steps, memories, input):
            patch.setattr(module, "_CALLS", 1)  # in one timing
        process = run("benchmark.py", "--quick", "--sections", *sections, "--device", "cpu", "--out", out)
    assert process.returncode == 0, process.stderr
    return json.loads(out.read_text()), process.stdout


def test_every_ratio_of_the_table_is_in_the_file(measured: tuple[dict, str]) -> None:
    content, printed = measured
    for name, bar in (("digits", 1.15), ("mnist", 1.05)):
        step = content["steps"][name]
        values = step["ratios"]["pyro / by hand"]
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{name}: pyro / by hand"))
        assert f"{values['median']:.3f}" in line and f"at most {bar}, " in line
        assert ("MISSED" in line) == (values["median"] > bar)
    assert {"repeats", "threads", "precision", "environment"} <= set(content)


def test_the_parts_of_a_step_add_up_to_it(measured: tuple[dict, str]) -> None:
    content, _ = measured
    for parts in content["parts"].values():
        assert {"data", "networks", "write and read", "optimiser", "draws and densities", "Pyro"} == set(
            parts["milliseconds"]
        )
        assert sum(parts["milliseconds"].values()) == pytest.approx(parts["whole_milliseconds"], abs=0.01)


def test_ways_are_timed_in_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, 3, CPU)
    assert "".join(calls) == "bbbaaa" + "aaabbb" + "bbbaaa"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_of_neighbouring_timings() -> None:
    assert ratio({"a": [2.0, 30.0, 4.0], "b": [1.0, 10.0, 1.0]}, "a", "b")["median"] == 3
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3, "quartile_1": 1.5, "quartile_3": 4.5}


def test_peak_memory_counts_what_lives_at_once() -> None:
    given = torch.ones(MEBIBYTE, requires_grad=True)

    def one_after_the_other() -> None:
        for _ in range(5):
            torch.ones(MEBIBYTE)

    def all_at_once() -> None:
        kept = [torch.ones(MEBIBYTE) for _ in range(5)]
        kept[0].view(2, -1)[0] += 1  # views take nothing

    def graph() -> None:
        given.exp().sum().backward()  # the exponential, and the gradient twice: of it, and of what was given

    assert peak_mebibytes(one_after_the_other, CPU) <= 2
    assert peak_mebibytes(all_at_once, CPU) == pytest.approx(5, abs=0.1)
    assert peak_mebibytes(graph, CPU) == pytest.approx(3, abs=1)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_the_power_of_a_power_law_is_found(power: float) -> None:
    points = [{"size": n, "milliseconds": 3 * n**power, "peak_mebibytes": 7 * n ** (power / 2)} for n in (8, 32, 128)]
    assert slopes(points) == {"milliseconds_power": power, "peak_mebibytes_power": power / 2}


def test_growth_is_measured_and_drawn(tmp_path: Path) -> None:
    axis = Axis("T, images per episode", "allocate", (2, 4), lambda length: {"episode_length": length, "width": 16})
    (line,) = measure_growth("cpu", repeats=1, along=[axis], particles=())
    assert [point["size"] for point in line["points"]] == [2, 4]
    assert line["points"][0]["peak_mebibytes"] < line["points"][1]["peak_mebibytes"]
    assert all(point["milliseconds"] > 0 for point in line["points"])
    panels = plot_growth([line], tmp_path / "growth.png").axes
    assert [panel.get_yscale() for panel in panels] == ["log", "log"] and (tmp_path / "growth.png").stat().st_size > 0
    drawn = [tuple(panel.lines[0].get_ydata()) for panel in panels]
    assert drawn == [tuple(p[name] for p in line["points"]) for name in ("milliseconds", "peak_mebibytes")]


def test_every_memory_is_timed_and_drawn(measured: tuple[dict, str]) -> None:
    content, printed = measured
    lines = {line["memory"]: line for line in content["memories"]}
    block_memories = {f"kanerva_plus_plus, {write}" for write in WRITES}
    others = {name for name, kind in MODELS.items() if kind.has_memory and not kind.has_blocks}
    assert set(lines) == block_memories | others
    assert {line["memory_scalars"] for line in lines.values()} == {3200}
    panels = plot_memory_costs(content["memories"]).axes
    for kind, panel in zip(OPERATIONS, panels, strict=True):
        drawn = {curve.get_label().rpartition(",")[0]: tuple(curve.get_ydata()) for curve in panel.lines}
        times = {name: tuple(p[f"{kind}_milliseconds"] for p in line["points"]) for name, line in lines.items()}
        assert drawn == times and min(min(own) for own in times.values()) > 0
        for name, own in times.items():
            (row,) = (row for row in printed.splitlines() if row.startswith(f"{kind}, {name} "))
            assert all(f"{time:.3f}" in row for time in own)


@pytest.mark.parametrize(("name", "config"), list(configs("cpu")), ids=[name for name, _ in configs("cpu")])
def test_an_operation_on_a_memory_is_as_many_operations_for_every_length(name: str, config: Config) -> None:
    pair = build(config, (1, 16, 16), CPU)
    few, more = ({kind: torch_operations(way) for kind, way in operations(pair, length).items()} for length in (3, 6))
    in_turn = {"write"} if name == "dynamic_kanerva_machine" else set()  # one image is written after the other
    assert {kind for kind in OPERATIONS if more[kind] != few[kind]} == in_turn
    assert all(more[kind] > 1.5 * few[kind] for kind in in_turn)


def test_scoring_memory_does_not_grow_with_the_particles() -> None:
    few, many = measure_growth("cpu", repeats=1, along=[], particles=(100, 400))[0]["points"]
    assert many["peak_mebibytes"] < 1.2 * few["peak_mebibytes"]


@pytest.mark.parametrize("write", ["allocate", "feed_forward"])
def test_a_step_does_the_same_operations_for_every_length_of_an_episode(write: str) -> None:
    def step(length: int) -> Callable[[], object]:
        config = configuration(
            "digits", "cpu", write=write, width=16, episode_length=length, episodes_per_step=1, augment=True
        )
        return pyro_trainer(config, random_images(config, 200)).train_step

    assert torch_operations(step(4)) == torch_operations(step(24))


def torch_operations(way: Callable[[], object]) -> int:
    """Of torch, when it runs for the second time."""
    way()
    with _Counting() as counting:
        way()
    return counting.found


class _Counting(TorchDispatchMode):
    found = 0

    def __torch_dispatch__(self, operation: Any, types: Any, inputs: Any = (), named: Any = None) -> Any:
        self.found += 1
        return operation(*inputs, **(named or {}))


def test_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    sentence = refused(run("benchmark.py", "--out", tmp_path / "none" / "benchmark.json"))
    assert "--out: expected a file in an existing folder" in sentence
