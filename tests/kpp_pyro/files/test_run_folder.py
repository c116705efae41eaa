"""The run folder: what is written is read again, and a crash costs at most its last line."""

from __future__ import annotations

import importlib.metadata
import json
import math

import pytest
import torch

from kpp_pyro.errors import InputError, OutputError
from kpp_pyro.files.run_folder import RunFolder, environment, write_json, write_text
from tests.kpp_pyro.files.nested import at, changed, places
from tests.kpp_pyro.files.reports import REPORTS

SIZES = {"image_shape": [3, 16, 20], "memory_scalars": 3200}
CONFIG = {"data": {"dataset": "digits", "classes": None}, "rate": 2e-3, "seed": 0, "augment": False, "name": "Ω"}


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.create()
    folder.write_config(CONFIG, SIZES)
    return folder


def hidden_files(folder):
    return [file.name for file in folder.path.iterdir() if file.name.startswith(".")]


def test_the_configuration_comes_back(run):
    assert RunFolder.open(run.path).read_config() == CONFIG
    assert not hidden_files(run)


def test_the_configuration_says_what_it_ran_on(run):
    content = json.loads(run.config.read_text())
    assert content["sizes"] == SIZES
    found = content["environment"]
    assert found["libraries"]["torch"] == importlib.metadata.version("torch")
    assert found["libraries"]["pyro-ppl"] == importlib.metadata.version("pyro-ppl")
    assert found["cpu_threads"] == torch.get_num_threads()
    assert found == environment()


def test_the_number_of_threads_is_that_of_the_last_training(run):
    assert run.read_threads() == torch.get_num_threads()
    content = json.loads(run.config.read_text())
    content["environment"]["cpu_threads"] = 5
    write_json(run.config, content)
    assert run.read_threads() == 5
    del content["environment"]
    write_json(run.config, content)
    assert run.read_threads() is None


def test_a_run_is_not_overwritten(run):
    run.log(1, "train", {"loss": 2.0})
    with pytest.raises(InputError, match=f"--out {run.path}: .* found a run; .*--resume {run.path}"):
        RunFolder(run.path).create()
    assert run.read_config() == CONFIG and len(run.read_metrics()) == 1


def test_an_empty_folder_may_become_a_run(tmp_path):
    RunFolder(tmp_path).create()
    RunFolder(tmp_path).write_config(CONFIG, SIZES)
    assert RunFolder.open(tmp_path).read_metrics() == []


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_in_the_way_of_a_new_run_is_named(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=f"^{tmp_path / 'file'}.*: expected a folder, or a place for one"):
        RunFolder(tmp_path / "file" / below).create()


@pytest.mark.parametrize("name", ["", "absent"])
def test_a_folder_without_a_run_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"{tmp_path / name}: expected a run folder with config.json"):
        RunFolder.open(tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"", b'{"config": {"seed"', b"{}", b"[1]", b"null", b"3", b"\xff\xfe\x00", b'"config"']
)
def test_a_damaged_configuration_is_refused(run, content):
    run.config.write_bytes(content)
    with pytest.raises(InputError, match=f"^{run.config}: expected the config.json of a run, found "):
        run.read_config()


def test_a_configuration_of_another_version_is_refused_by_its_number(run):
    write_json(run.config, {"config": CONFIG})
    with pytest.raises(InputError, match=r"expected a run of version 2, found one of version 1; train it again$"):
        run.read_config()
    write_json(run.config, {"config": CONFIG, "version": 3})
    with pytest.raises(InputError, match=r"expected a run of version 2, found one of version 3; update kpp-pyro$"):
        run.read_config()


def test_metrics_come_back_in_order_and_exactly(run):
    run.log(1, "train", {"elbo_nats_per_image": 0.1 + 0.2, "loss": -1e-300})
    run.log(2, "validation", {"elbo_nats_per_image": -math.inf})
    assert run.read_metrics() == [
        {"step": 1, "split": "train", "elbo_nats_per_image": 0.1 + 0.2, "loss": -1e-300},
        {"step": 2, "split": "validation", "elbo_nats_per_image": None},
    ]
    assert len(run.metrics.read_text().splitlines()) == 2


def test_a_run_without_metrics_has_none(tmp_path):
    assert RunFolder(tmp_path).read_metrics() == []


def test_a_last_line_cut_short_anywhere_is_ignored(run):
    for step in (1, 2):
        run.log(step, "train", {"loss": 1.25})
    whole = run.metrics.read_text()
    first = whole.index("\n") + 1
    for size in range(first, len(whole) - 2):
        run.metrics.write_text(whole[:size])
        assert [record["step"] for record in run.read_metrics()] == [1]


def test_forgetting_drops_later_steps_and_the_test_set(run):
    for step in (1, 5, 10, 15):
        run.log(step, "train", {"loss": 1 / step})
    run.log(10, "validation", {"loss": math.inf})
    run.log(10, "test", {"loss": 0.0})
    before = run.read_metrics()
    run.forget_after(10)
    kept = [(record["step"], record["split"]) for record in run.read_metrics()]
    assert kept == [(1, "train"), (5, "train"), (10, "train"), (10, "validation")]
    assert all(record in before for record in run.read_metrics())
    assert not hidden_files(run)


def test_a_resumed_run_writes_on_after_a_line_cut_short(run):
    run.log(1, "train", {"loss": 1.0})
    with run.metrics.open("a") as file:
        file.write('{"step": 2, "spl')
    run.forget_after(1)
    run.log(2, "train", {"loss": 0.5})
    assert [record["step"] for record in run.read_metrics()] == [1, 2]


def test_an_interrupted_write_leaves_the_previous_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "evaluation.json"
    write_json(path, {"elbo_nats_per_image": -17.5})

    def refused(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", refused)
    with pytest.raises(InputError, match=r"evaluation\.json: .*No space"):
        write_text(path, "{}")
    assert json.loads(path.read_text()) == {"elbo_nats_per_image": -17.5}


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": 1}',
        b"not json",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"step": "1", "split": "train"}',
        b'{"step": -1, "split": "train"}',
        b'{"step": 1e99, "split": "train"}',
        b'{"step": 1, "split": "other"}',
        b'{"step": 1, "split": "train", "loss": "2"}',
        b'{"step": 1, "split": "train", "loss": [2]}',
        b'{"step": 1, "split": "train", "loss": NaN}',
        b"[" * 10_000,
    ],
)
def test_a_foreign_line_of_metrics_is_refused_and_nothing_is_lost(run, line):
    run.log(1, "train", {"loss": 2.0})
    with run.metrics.open("ab") as file:
        file.write(line + b"\n")
    run.log(2, "train", {"loss": 1.0})
    before = run.metrics.read_bytes()
    with pytest.raises(InputError, match=r"metrics\.jsonl: expected quantities by step and split in line 2, found "):
        run.forget_after(1)
    assert run.metrics.read_bytes() == before


def test_a_configuration_written_again_keeps_what_the_run_ran_on_before(run):
    run.write_config({**CONFIG, "seed": 1}, SIZES)
    content = json.loads(run.config.read_text())
    assert content["config"]["seed"] == 1
    assert content["earlier_environments"] == [environment()]


def test_the_shape_of_the_images_comes_back(run):
    assert RunFolder.open(run.path).read_image_shape() == (3, 16, 20)


@pytest.mark.parametrize(
    "sizes",
    [
        None,
        {"parameters": 3},
        *({"image_shape": shape} for shape in (16, [16, 16], [1, 16, 16, 1], [1, None, 16], ["1", 16, 16])),
        *({"image_shape": [1, side, 16]} for side in (0, 16.5, 10**9, True)),
    ],
)
def test_a_configuration_that_does_not_say_the_shape_of_its_images_is_refused(run, sizes):
    write_json(run.config, {"version": 2, "config": CONFIG, "sizes": sizes})
    with pytest.raises(InputError, match=rf"^{run.config}: expected the config.json of a run, found .*sizes"):
        run.read_image_shape()


every_report = pytest.mark.parametrize("script", REPORTS)
READERS = {
    "evaluate": "read_evaluation",
    "denoise": "read_denoising",
    "generate": "read_generation",
    "from_prior": "read_from_prior",
}
FILES = {"evaluate": "evaluation"}
SCRIPTS = {"from_prior": "generate.py --from-prior"}


def report(run, script):
    """The file of a script's report, and the function that reads it."""
    return run.path / f"{FILES.get(script, script)}.json", getattr(run, READERS[script])


def named(script):
    """A script as messages name it."""
    return SCRIPTS.get(script, f"{script}.py")


@every_report
def test_what_a_script_reports_comes_back(run, script):
    path, read = report(run, script)
    write_json(path, {**REPORTS[script], "further": {"error": math.nan}})
    assert read() == {**json.loads(json.dumps(REPORTS[script])), "further": {"error": None}} | {
        "settings": {**REPORTS[script]["settings"], "image_shape": (1, 8, 8)}
    }


@every_report
def test_a_report_that_was_not_written_is_missed_with_the_script_that_writes_it(run, script):
    path, read = report(run, script)
    with pytest.raises(InputError, match=f"^{path}: expected a report of {named(script)}, found none .No such file"):
        read()
    path.mkdir()
    with pytest.raises(InputError, match=f"^{path}: expected a report of {named(script)}, found a folder$"):
        read()


OPTIONAL = ("torch", "other", "complete", "found_share", "drifted_share", "drifted_standard_error")  # not needed


@every_report
def test_a_missing_key_is_named(run, script):
    path, read = report(run, script)
    for place in places(REPORTS[script])[1:]:
        if isinstance(place[-1], str) and place[-1] not in OPTIONAL:
            write_json(path, changed(REPORTS[script], place, ...))
            name = ".".join(map(str, place))
            with pytest.raises(InputError, match=f"^{path}: expected a report of {named(script)}, found no {name}$"):
                read()


@every_report
def test_a_value_of_another_type_is_named(run, script):
    path, read = report(run, script)
    for place in places(REPORTS[script])[1:]:
        for value in ({"a": 1}, [[]], "text", True, -1e99):
            old = at(REPORTS[script], place)
            if isinstance(old, type(value)) or (old is None and not isinstance(value, list | bool)):
                continue
            write_json(path, changed(REPORTS[script], place, value))
            with pytest.raises(InputError, match=f"^{path}: expected a report of {named(script)}, found "):
                read()


@every_report
@pytest.mark.parametrize(
    "content", [b"", b'{"settings": {}, "resu', b"[1]", b"null", b"3", b"\xff\xfe\x00", b"[" * 9999]
)
def test_a_damaged_report_is_refused(run, script, content):
    path, read = report(run, script)
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path}: expected a report of {named(script)}, found "):
        read()


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoint.pt", "best.pt"])
def test_a_folder_with_files_of_a_runs_names_is_not_new(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"^--out {tmp_path}: expected a new folder, found {name} in it$"):
        RunFolder(tmp_path).create()
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_that_is_no_text_is_not_printed(run):
    run.config.write_bytes(b"\xff" * 10_000)
    with pytest.raises(InputError, match=r"found no JSON \(expected value at line 1 column 1\)$"):
        run.read_config()
    run.config.write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"found no JSON \(recursion limit exceeded at line 1 column \d+\)$"):
        run.read_config()
