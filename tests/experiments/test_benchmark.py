"""The benchmark: what it writes is what it prints, and its parts measure what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.speed import options
from experiments.speed.contenders import configuration, pyro_trainer, random_images
from experiments.speed.growth import Axis, measure_growth, peak_mebibytes, slopes
from experiments.speed.timing import alternate, ratio, spread
from kpp_pyro.figures import draw_growth
from tests.experiments.running import refused, run

CPU = torch.device("cpu")
MEBIBYTE = 2**18  # numbers of float32


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    out = tmp_path_factory.mktemp("benchmark") / "benchmark.json"
    process = run("benchmark.py", "--quick", "--sections", "steps", "parts", "input", "--device", "cpu", "--out", out)
    assert process.returncode == 0, process.stderr
    return json.loads(out.read_text()), process.stdout


def test_every_ratio_of_the_table_is_in_the_file(measured: tuple[dict, str]) -> None:
    content, printed = measured
    for name, bar in (("digits", 1.15), ("mnist", 1.05)):
        step = content["steps"][name]
        values = step["ratios"]["pyro / by hand"]
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{name}: pyro / by hand"))
        assert f"{values['median']:.3f}" in line and f"at most {bar} wanted" in line
        assert ("NO" in line) == (values["median"] > bar)
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

    def together() -> None:
        kept = [torch.ones(MEBIBYTE) for _ in range(5)]
        kept[0].view(2, -1)[0] += 1  # views take nothing

    def graph() -> None:
        given.exp().sum().backward()  # the exponential, and the gradient twice: of it, and of what was given

    assert peak_mebibytes(one_after_the_other, CPU) <= 2
    assert peak_mebibytes(together, CPU) == pytest.approx(5, abs=0.1)
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
    panels = draw_growth([line], tmp_path / "growth.png").axes
    assert [panel.get_yscale() for panel in panels] == ["log", "log"] and (tmp_path / "growth.png").stat().st_size > 0
    drawn = [tuple(panel.lines[0].get_ydata()) for panel in panels]
    assert drawn == [tuple(p[name] for p in line["points"]) for name in ("milliseconds", "peak_mebibytes")]


def test_scoring_memory_does_not_grow_with_the_particles() -> None:
    few, many = measure_growth("cpu", repeats=1, along=[], particles=(400, 1_600))[0]["points"]
    assert many["peak_mebibytes"] < 1.2 * few["peak_mebibytes"]


def test_other_ways_are_compared_with_the_step_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = options._changes(configuration("digits", "cpu"))
    del changes["networks compiled"]  # takes long
    monkeypatch.setattr(options, "_changes", lambda _: {**changes, "broken": lambda _: 1 / 0})
    found = options.time_options(configuration("digits", "cpu", width=16), repeats=1)
    assert set(found["ratios"]) == {f"{name} / as it is" for name in changes}
    assert found["failures"] == {"broken": "ZeroDivisionError: division by zero"}


@pytest.mark.parametrize("write", ["allocate", "feed_forward"])
def test_a_step_does_the_same_operations_for_every_length_of_an_episode(write: str) -> None:
    def operations(length: int) -> int:
        config = configuration(
            "digits", "cpu", write=write, width=16, episode_length=length, episodes_per_step=1, augment=True
        )
        trainer = pyro_trainer(config, random_images(config, 200))
        trainer.train_step()
        with torch.profiler.profile() as profile:
            trainer.train_step()
        return sum(event.count for event in profile.key_averages() if event.key.startswith("aten::"))

    assert operations(4) == operations(24)


def test_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    sentence = refused(run("benchmark.py", "--out", tmp_path / "none" / "benchmark.json"))
    assert "--out: expected a file in a folder that is there" in sentence
