"""Ablations: grids, which cells are left to run, running them, the table's mathematics, and one grid end to end."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from experiments.shared.ablation import running
from experiments.shared.ablation.cells import Cell, make_cells, read_flags, state_of
from experiments.shared.ablation.grid import Grid, is_numeric, read_grid
from experiments.shared.ablation.results import (
    COST,
    GAIN,
    SECONDS,
    Measured,
    read_measured,
    standard_error_over_seeds,
    summarize_rows,
)
from experiments.shared.ablation.running import Task, run_tasks
from experiments.shared.ablation.table import as_csv, describe_ablation
from experiments.svi_train import new_config, parse
from kpp_pyro.errors import InputError
from kpp_pyro.files.run_folder import VERSION, write_json
from kpp_pyro.plots import plot_ablation
from tests.experiments.running import ROOT, refused, run
from tests.kpp_pyro.files.reports import REPORTS
from tests.waiting import HANGS, wait_until

CONFIGS_FOLDER = ROOT / "experiments" / "configs"
CONFIGS = sorted(CONFIGS_FOLDER.glob("*.yaml"))
TINY_GRID = """
title: A tiny grid
base: {width: 16, steps: 3, evaluate_every: 3, warmup_steps: 2, episodes_per_step: 2, augment: true, capture: off}
vary:
  write: [allocate, feed_forward]
  block:
    5: {}
    "4": {block_height: 4, block_width: 4, steps: 2}
seeds: [3, 5]
score: {particles: 20}
"""


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    (tmp_path / "tiny.yaml").write_text(TINY_GRID)
    return read_grid(tmp_path / "tiny.yaml")


def test_a_grid_is_every_combination_with_every_seed(grid, tmp_path):
    cells = make_cells(grid, tmp_path)
    labels = [(cell.labels["write"], cell.labels["block"], cell.seed) for cell in cells]
    assert labels == [(w, b, s) for w in ("allocate", "feed_forward") for b in ("5", "4") for s in (3, 5)]
    assert cells[2].folder == tmp_path / "cells" / "write=allocate,block=4,seed=3"
    shared = {"width": "16", "evaluate_every": "3", "warmup_steps": "2", "episodes_per_step": "2", "augment": "true"}
    assert cells[0].flags == {**shared, "capture": "off", "steps": "3", "write": "allocate", "seed": "3"}
    own = {"write": "feed_forward", "block_height": "4", "block_width": "4", "steps": "2", "seed": "5"}
    assert cells[-1].flags == {**shared, "capture": "off", **own}  # what an axis sets goes before what all share
    assert grid.score == {"particles": 20, "limit": 512, "control_particles": 0}


def test_the_flags_of_a_cell_are_what_svi_train_reads(grid, tmp_path):
    config = read_flags(make_cells(grid, tmp_path)[-1].flags).flat()
    expected = {"steps": 2, "augment": True, "write": "feed_forward", "block_height": 4, "seed": 5, "width": 16}
    assert {name: config[name] for name in expected} == expected


@pytest.mark.parametrize("odd", ["augment=true", "augment=false", "signs_per_scalar=None", "classes_per_episode=7"])
def test_the_command_of_a_cell_trains_what_its_flags_stand_for(grid, tmp_path, odd):
    for cell in make_cells(grid.with_base([odd]), tmp_path):
        assert_one_run(cell)


def assert_one_run(cell: Cell) -> None:
    """`ablate.py` and `svi_train.py` make the same configuration of the flags of a cell."""
    given = parse(cell.train_command()[1:])
    assert given.pop("out") == cell.folder
    assert new_config(given) == read_flags(cell.flags)


def test_flags_of_the_command_line_go_before_the_file(grid):
    changed = grid.with_axes(["write=allocate", "reads=1,2"]).with_base(["width=32"]).with_seeds(2)
    assert list(changed.axes) == ["write", "block", "reads"]
    assert (list(changed.axes["write"]), changed.base["width"], changed.seeds) == (["allocate"], "32", (0, 1))
    assert changed.axes["reads"] == {"1": {"reads": "1"}, "2": {"reads": "2"}}
    assert grid.with_score(limit=7, particles=None).score == {"particles": 20, "limit": 7, "control_particles": 0}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("base: [", "YAML"),
        ("- a", "mapping"),
        ("bsae: {}", "did you mean base"),
        ("base: {widht: 3}", "did you mean width"),
        ("base: {seed: 3}", "seed"),
        ("base: {width: [1]}", "found a list in place of a text for base.width"),
        ("base: {augment: 3}", "true or false"),
        ("vary: {write: []}", "write"),
        ("vary: {write: [allocate, allocate]}", "allocate twice"),
        ("vary: {steps: [1, '1']}", "1 twice"),
        ("vary: {memory: {a: {widht: 3}}}", "did you mean width"),
        ("vary: {memory: {a: 3}}", "mapping"),
        ("vary: {write: [allocate], memory: {a: {reads: 2}, b: {write: feed_forward}}}", "write and memory"),
        ("base: {width: 16, steps: 3, width: 32}", "width twice"),
        ("vary: {reads: [1]}\nvary: {write: [allocate]}", "vary twice"),
        ("vary:\n  block:\n    4: {reads: 1}\n    5: {reads: 2}\n    4: {reads: 3}", "4 twice"),
        ("seeds: 0", "seeds"),
        ("seeds: [1, 1]", "different"),
        ("score: {particles: 0}", "particles"),
        ("score: {partikles: 1}", "did you mean particles"),
        ("score: {limit: 1.5}", "found 1.5 in place of a whole number for score.limit"),
        ("title: {a: 1}", "title"),
        ("seeds: 1000000000", "seeds"),
        ("seeds: [0, -1]", "seeds"),
        ("seeds: 2020-01-01", "seeds"),
        ("base: {width: 2020-13-45}", "YAML"),
        ("base: {width: .nan}", "width"),
        ("a: &a [1]\nbase: {width: *a}", "found a reference to another one (*) in line 2"),
        ("vary: {" + ", ".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)) + "}", "reference"),
        ("[" * 5000, "nested"),
        ("base: {width: 1}" + " " * 10**6, "1,000,000 bytes"),
    ],
)
def test_a_grid_that_is_none_gets_one_sentence(content, named, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(content)
    sentence = refused(run("ablate.py", path, "--dry-run", cwd=tmp_path))
    assert str(path) in sentence and named in sentence and "expected" in sentence and "found" in sentence
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--vary"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["--vary", "write"], "--vary"),
        (["--vary", "wriet=allocate"], "expected another name (did you mean write?), found wriet"),
        (["--vary", "zzz=1"], "expected names among model, likelihood"),
        ([CONFIGS_FOLDER / "memories.yaml", "--vary", "write=allocate,feed_forward"], "model and write"),
        (["--vary", "write="], "list of values"),
        (["--vary", "steps=" + ",".join(map(str, range(1, 200))), "--seeds", "60"], "10000 cells, found 11940"),
        (["--vary", "write=allocate,"], "one value"),
        (["--vary", "write=allocate", "--set", "write=feed_forward"], "--set write"),
        (["--vary", "steps=1,2", "--steps", "3"], "steps"),
        (["--vary", "data_dir=a/b,a b,a_b"], "a_b"),
        (["--vary", "write=allocate", "--seeds", "0"], "--seeds"),
        (["--vary", "write=allocate", "--jobs", "0"], "--jobs"),
        (["--vary", "write=allocate", "--out", "/dev/null/x"], "found the file /dev/null"),
        (["--vary", "learning_rate=1e-3,0.002,0.001"], "learning_rate=1e-3,seed=0 and learning_rate=0.001,seed=0"),
        (["--vary", "device=auto,cpu", "--set", "precision=float32"], "device=auto,seed=0 and device=cpu,seed=0"),
    ],
)
def test_flags_that_make_no_grid_get_one_sentence(arguments, named, tmp_path):
    assert named in refused(run("ablate.py", *arguments, "--dry-run", cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_grid_whose_every_cell_is_refused_is_refused_itself(dry, tmp_path):
    sentence = refused(run("ablate.py", "--vary", "temporal_shift=0.6,0.7", *dry, cwd=tmp_path))
    reason = "--temporal-shift: expected at most 0.5, found 0.6"
    assert sentence == f"error: all 2 cells are refused; temporal_shift=0.6,seed=0: {reason}"
    assert list(tmp_path.iterdir()) == []


def test_kls_that_are_not_paid_when_training_ends_are_noted(tmp_path):
    grid = ["--vary", "kl_begin_step=0,1500", "--set", "kl_key_start=0", "--set", "kl_ramp_steps=2000"]
    said = run("ablate.py", *grid, "--dry-run", "--steps", 2000, cwd=tmp_path).stdout
    notes = [line for line in said.splitlines() if line.startswith("# Note")]
    assert notes == [
        f"# Note: the weight of the KL of {which}, not 1, at the end of 2000 steps: kl_begin_step=1500,seed=0"
        for which in ("key is 0.25", "latent is 0.33")
    ]
    long = run("ablate.py", *grid, "--dry-run", "--steps", 3500, cwd=tmp_path).stdout
    assert "Note" not in long


def test_dry_run_lists_commands_that_any_scheduler_can_run_and_leaves_nothing(tmp_path):
    arguments = ["--vary", "write=allocate,foo", "--set", "dataset=mnist", "--steps", 7, "--score-limit", 9]
    lines = run("ablate.py", *arguments, "--dry-run", "--data-dir", "da ta", cwd=tmp_path).stdout.splitlines()
    assert lines[0] == "# write=allocate,seed=0: to train"
    folder = "runs/ablations/write/cells/write=allocate,seed=0"
    assert lines[1] == (
        f"python experiments/svi_train.py --dataset mnist --steps 7 --data-dir 'da ta' --write allocate --seed 0 "
        f"--out {folder} && python experiments/evaluate.py {folder} --particles 200 --limit 9 --control-particles 0 "
        "--posterior-images 0 --data-dir 'da ta'"
    )
    assert re.match(r"# write=foo,seed=0: refused: .*allocate.*'foo'", lines[2]) and len(lines) == 4
    assert lines[3].startswith(
        "# Note: the weight of the KL of latent is 0.11, not 1, at the end of 7 steps: write=all"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_ready_grid_is_one_that_svi_train_takes(path, tmp_path):
    grid = read_grid(path)
    assert grid.title != path.stem and len(grid.seeds) > 1
    for cell in make_cells(grid.with_seeds(1), tmp_path):
        assert_one_run(cell)


def test_the_ready_grids_are_those_that_are_wanted():
    names = "memories writes priors guides objectives reads block_size"
    lengths = {"episode_length_fixed_memory", "episode_length_proportional_memory"}
    assert {path.stem for path in CONFIGS} >= {*names.split(), *lengths}


def test_numbers_are_told_from_names():
    assert is_numeric(["1", "2.5", "1e-3"])
    assert not is_numeric(["1", "allocate"]) and not is_numeric(["nan"])


# How far a cell has come.


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    grid = Grid(base={"steps": "5"}, score={"particles": 20, "limit": 500, "control_particles": 0})
    return make_cells(grid.with_axes(["reads=2"]), tmp_path)[0]


def leave(cell: Cell, steps: int = 5, done: bool = False, images: int | None = None, **settings: Any) -> None:
    """Leave what a run of this cell leaves; `images` are those scored, if it is."""
    config = read_flags(cell.flags).replace(steps=steps, episode_length=32, device="cuda:7", data_dir="/elsewhere")
    content = {"version": VERSION, "config": config.to_json(), "sizes": {"image_shape": [1, 8, 8]}}
    write_after_making(cell.folder / "config.json", content)
    records = [{"step": 5, "split": "validation", "training_seconds": 1.5}, *([{"step": 5, "split": "test"}] * done)]
    (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if images is not None:
        report = REPORTS["evaluate"]
        found = {**report["settings"], "images": images, "particles": 20, "control_particles": 0, **settings}
        write_json(cell.folder / "evaluation.json", {**report, "settings": found})


def write_after_making(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def test_a_cell_goes_on_where_it_is(cell):
    config = read_flags(cell.flags)
    scripts = []
    for left in (None, {}, {"done": True}, {"done": True, "images": 500}):
        if left is not None:
            leave(cell, **left)
        state = state_of(cell, config)
        scripts.append((state, [(command[0], "--resume" in command) for command in cell.commands(state)]))
    train, resume, score = ("svi_train.py", False), ("svi_train.py", True), ("evaluate.py", False)
    assert scripts == [
        ("to train", [train, score]),
        ("to resume", [resume, score]),
        ("to score", [score]),
        ("finished", []),
    ]


@pytest.mark.parametrize(
    ("images", "settings", "state"),
    [
        (359, {}, "finished"),  # all there are
        (358, {}, "to score"),
        (501, {}, "to score"),
        (500, {"particles": 21}, "to score"),
        (500, {"split": "validation"}, "to score"),
    ],
)
def test_other_scores_are_scored_again(cell, images, settings, state):
    leave(cell, done=True, images=images, **settings)
    assert state_of(cell, read_flags(cell.flags)) == state


def test_a_folder_with_another_run_is_named(cell):
    leave(cell, steps=6)
    with pytest.raises(InputError, match=rf"{re.escape(str(cell.folder))}: expected a run with steps 5, found 6"):
        state_of(cell, read_flags(cell.flags))


# Running.


def task(folder: Path, name: str, *programs: str) -> Task:
    return Task(name, [[sys.executable, "-c", program] for program in programs], folder / f"{name}.log")


def test_tasks_run_in_turn_and_a_failure_stops_none_of_the_others(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(running, "idle_cores", lambda: 7)
    write = "import os; open({!r}, 'a').write(os.environ['OMP_NUM_THREADS'])"
    marks = [str(tmp_path / name) for name in ("one", "two", "never")]
    (tmp_path / "bad.log").write_text("error: of an earlier time\n")
    tasks = [
        task(
            tmp_path, "bad", "import sys; print('\\rerror: a reason', file=sys.stderr); exit(3)", write.format(marks[2])
        ),
        task(tmp_path, "mute", "exit(4)"),
        task(tmp_path, "good", write.format(marks[0]), write.format(marks[1])),
    ]
    ends: dict[str, str | None] = {}
    assert run_tasks(tasks, 2, lambda task, failure: ends.update({task.name: failure})) == 0
    assert {name: failure and failure.rpartition(": ")[2] for name, failure in ends.items()} == {
        "bad": "a reason",
        "mute": "exit status 4",
        "good": None,
    }
    assert [Path(mark).read_text() for mark in marks[:2]] == ["3", "3"]  # of 7 idle cores
    assert not Path(marks[2]).exists()
    assert (tmp_path / "bad.log").read_text().startswith("error: of an earlier time\n$ ")


def test_a_signal_reaches_each_task_once_and_nothing_more_is_begun(tmp_path):
    save = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (print('saved', flush=True), time.sleep(0.3), exit(130)))\n"
        "print('ready', flush=True)\n"
        f"time.sleep({HANGS})"
    )
    tasks = [task(tmp_path, name, save, "print('never')") for name in ("a", "b", "c")]
    reported: list[str] = []

    def interrupt() -> None:
        logs = [tmp_path / "a.log", tmp_path / "b.log"]
        wait_until(lambda: all(log.exists() and b"\nready" in log.read_bytes() for log in logs))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run_tasks(tasks, 2, lambda task, _: reported.append(task.name)) == signal.SIGINT
    thread.join()
    for name in ("a", "b"):
        said = (tmp_path / f"{name}.log").read_text()
        assert said.count("\nsaved") == 1 and "\nnever" not in said
    assert not (tmp_path / "c.log").exists() and reported == []


def test_what_is_killed_leaves_none_of_its_processes_behind(tmp_path, monkeypatch):
    """A second Ctrl-C, while a command and what it has started hear of no signal but the last."""
    child = f"import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep({HANGS})"
    program = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {child!r}]); print(child.pid); "
    pid = tmp_path / "pid"
    program += f"open({str(pid)!r}, 'w').write(str(child.pid)); {child}"

    def interrupted(_seconds: float) -> None:
        if pid.exists() and pid.read_text():
            raise KeyboardInterrupt

    monkeypatch.setattr("experiments.shared.ablation.running.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_tasks([task(tmp_path, "a", program)], 1, lambda *_: None)
    monkeypatch.undo()
    wait_until(lambda: not is_running(int(pid.read_text())))


def is_running(pid: int) -> bool:
    """Whether a process is there that is not only waiting to be forgotten."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


# The table.


def test_the_memory_gain_is_that_of_the_test_set(cell):
    leave(cell, done=True, images=500)
    record = {"step": 5, "split": "validation", SECONDS: 1.5, GAIN: 7.0}
    records = [record, {"step": 5, "split": "test"}]
    for gain in ({}, {GAIN: 2.0}):
        records[1] |= gain
        (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        quantities = read_measured(cell).quantities
        assert quantities.get(GAIN) == gain.get(GAIN) and quantities[SECONDS] == 1.5


def measured(cost: float, trustworthy: bool = True, **others: float) -> Measured:
    quantities = {COST: cost, "parameters": 1234, "memory_scalars": 3200, "kl_key_nats_per_image": cost / 7, **others}
    return Measured(quantities, trustworthy, np.log(32), {"images": 512})


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    grid = Grid(seeds=(0, 1, 2)).with_axes(["write=allocate,feed_forward", "reads=1"])
    cells = make_cells(grid, Path("out"))
    found = [measured(3.0), measured(4.5), measured(5.25), measured(7.0, trustworthy=False)]
    return summarize_rows(cells, dict(zip([cell.name for cell in cells], found, strict=False)))


def test_rows_are_means_and_standard_errors_over_seeds(rows):
    first, second = rows
    costs = np.array([3.0, 4.5, 5.25])
    assert first["labels"] == {"write": "allocate", "reads": "1"} and first["seeds_finished"] == first["seeds"] == 3
    assert first["mean"][COST] == pytest.approx(costs.mean())
    assert first["standard_error"][COST] == pytest.approx(costs.std(ddof=1) / np.sqrt(3))
    assert first["mean"]["kl_key_nats_per_image"] == pytest.approx(costs.mean() / 7)
    assert (second["seeds_finished"], second["mean"][COST], second["standard_error"][COST]) == (1, 7.0, None)
    assert (first["trustworthy"], second["trustworthy"]) == (True, False)
    assert standard_error_over_seeds([2.0, 2.0]) == 0.0


def test_the_table_and_the_csv_say_the_same(rows):
    cells = [{"name": "x", "failure": "svi_train.py: a reason"}, {"name": "y", "failure": None}]
    text = describe_ablation({"title": "T", "command": "c", "stated": {}, "rows": rows, "cells": cells})
    table = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert table[0] == ["write", "reads", "seeds", "−ln p̂", "KL of key", "parameters", "memory scalars"]
    assert table[2] == ["allocate", "1", "3", "4.25 ± 0.66", "0.61", "1,234", "3,200"]
    assert table[3] == ["feed_forward", "1", "1 of 3", "≤ 7.00 ± ?", "1.00", "1,234", "3,200"]
    assert "- `x`: svi_train.py: a reason" in text and "`y`" not in text
    first, second = csv.DictReader(io.StringIO(as_csv(rows)))
    assert float(first[COST]) == rows[0]["mean"][COST]
    assert float(first[f"{COST}_standard_error"]) == rows[0]["standard_error"][COST]
    assert (second["write"], second["trustworthy"]) == ("feed_forward", "False")
    assert second[f"{COST}_standard_error"] == ""


def test_the_figure_shows_costs_their_errors_and_ln_t(tmp_path):
    costs = {"8": (2.5, 0.25), "32": (4.0, None), "128": (60.0, 2.0)}
    points = [
        {
            "labels": {"write": write, "T": length},
            "cost": shift + cost,
            "standard_error": error,
            "cost_with_memory_kl": 1 + shift + cost if write == "b" else None,
            "standard_error_with_memory_kl": error and 2 * error,
            "limit": float(np.log(int(length))),
            "trustworthy": write == "a",
        }
        for write, shift in (("a", 0.0), ("b", 10.0))
        for length, (cost, error) in costs.items()
    ]
    axis = plot_ablation(points[::-1], "T", "lines", tmp_path / "lines.png").axes[0]
    lines = {line.get_label(): line for line in axis.lines}
    np.testing.assert_allclose(lines["ln T"].get_xydata(), [[n, np.log(n)] for n in (8, 32, 128)])
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    by_label = {bars.get_label(): bars for bars in axis.containers}
    paid = by_label["b, complete: with the KL of the memory"]
    np.testing.assert_allclose(paid[0].get_xydata(), [[8, 13.5], [32, 15.0], [128, 71.0]])
    first, last = [segment for segment in paid[2][0].get_segments() if len(segment)]  # of 32 it is not known
    np.testing.assert_allclose([first, last], [[[8, 13.0], [8, 14.0]], [[128, 67.0], [128, 75.0]]])
    bars = by_label["a"]
    np.testing.assert_allclose(bars[0].get_xydata(), [[8, 2.5], [32, 4.0], [128, 60.0]])
    segments = bars[2][0].get_segments()
    np.testing.assert_allclose(segments[0], [[8, 2.25], [8, 2.75]])
    axis = plot_ablation(points[:3], None, "rows", tmp_path / "rows.png").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a, 8", "a, 32", "a, 128"]
    assert [tuple(bars[0].get_xydata()[0]) for bars in axis.containers] == [(2.5, 0), (4.0, 1), (60.0, 2)]
    (*_, paid) = plot_ablation(points[3:], None, "paid rows", tmp_path / "paid.png").axes[0].containers
    np.testing.assert_allclose(paid[2][0].get_segments()[2], [[67.0, 2], [75.0, 2]])
    for name in ("lines", "rows"):
        assert matplotlib.image.imread(tmp_path / f"{name}.png").shape[1] > 300


def test_a_grid_from_end_to_end(tmp_path):
    """One cell that works and one that is refused; then the same again, which runs nothing."""
    tiny = ["width=16", "evaluate_every=30", "warmup_steps=2", "episodes_per_step=2", "episode_length=16"]
    tiny.append("episode_encoder=temporal_shift")
    settings = [part for text in tiny for part in ("--set", text)]
    grid = ["--vary", "temporal_shift=0,0.7", *settings, "--steps", 30, "--score-particles", 20, "--score-limit", 32]
    process = run("ablate.py", *grid, "--out", tmp_path / "out")
    assert process.returncode == 1, process.stdout + process.stderr
    assert "--temporal-shift: expected at most 0.5, found 0.7" in process.stdout
    out = tmp_path / "out"
    content = json.loads((out / "ablation.json").read_text())
    evaluation = json.loads((out / "cells" / "temporal_shift=0,seed=0" / "evaluation.json").read_text())
    good, bad = content["rows"]
    assert good["mean"][COST] == -evaluation["scores"]["own"]["log_likelihood_nats_per_image"]
    assert good["mean"]["memory_scalars"] == 3200 and good["mean"]["parameters"] > 1000
    assert good["mean"]["training_seconds"] > 0 and good["limit_nats_per_image"] == pytest.approx(np.log(16))
    assert (bad["seeds_finished"], bad["mean"]) == (0, {})
    assert [cell["state"] for cell in content["cells"]] == ["finished", "refused"]
    text = (out / "table.md").read_text()
    assert text.startswith("# Ablation of temporal_shift\n")
    assert "32 test images of digits (static binarization), T = 16" in text and text in process.stdout
    assert "| KL of key | KL of latent |" in text and "bits_per_dim" not in text
    assert {path.name for path in out.glob("[!.]*")} == {
        "table.md",
        "table.csv",
        "ablation.json",
        "ablation.png",
        "cells",
    }
    (out / "ablation.png").unlink()
    before = (out / "cells" / "temporal_shift=0,seed=0.log").read_bytes()
    again = run("ablate.py", "--vary", "temporal_shift=0", *grid[2:], "--out", out)
    assert again.returncode == 0, again.stderr
    assert (out / "ablation.png").is_file()
    assert (out / "cells" / "temporal_shift=0,seed=0.log").read_bytes() == before
    assert "steps 40, found 30" in refused(
        run("ablate.py", "--vary", "temporal_shift=0", *settings, "--steps", 40, "--out", out)
    )
