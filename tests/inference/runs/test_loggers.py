"""What loggers record is what their own readers find; wandb and MLflow are replaced where they are not installed."""

from __future__ import annotations

import json
import re
import struct
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from inference import Config, train
from inference.runs.loggers import LOGGERS, interface
from kpp_pyro.errors import InputError, OutputError
from kpp_pyro.files.checkpoint import load_checkpoint
from kpp_pyro.files.run_folder import RunFolder
from tests.experiments.running import TINY, refused, run, without_figures
from tests.inference.runs.fake_loggers import fake_mlflow, fake_wandb

FIELDS = {"dataset": "digits", "steps": 40, "classes_per_episode": None, "augment": False}


def installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def record(name: str, folder: RunFolder, next_step: int, steps: range, best: int) -> None:
    """Record a session of training: curves, a figure, and test scores of an earlier step."""
    logger = LOGGERS[name].open(folder, next_step)
    logger.add_config({**FIELDS, "steps": steps[-1]})
    for step in steps:
        logger.add_scalars("train", {"elbo_nats_per_image": -100.0 + step, "learning_rate": 0.1}, step)
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    logger.add_figures({"memory": figure}, steps[-1])
    logger.add_scalars("test", {"elbo_nats_per_image": -7.5}, best)
    logger.close()


def test_tensorboard_finds_what_was_recorded_and_forgets_the_steps_that_a_resumed_run_repeats(folder):
    record("tensorboard", folder, 1, range(1, 6), best=2)
    (first,) = folder.tensorboard.glob("events.*")  # its name has the second, in which the other file may begin too
    first.rename(re.sub(r"tfevents\.\d+", "tfevents.0000000001", str(first)))
    record("tensorboard", folder, 4, range(4, 8), best=6)
    found = EventAccumulator(str(folder.tensorboard)).Reload()
    assert [(e.step, e.value) for e in found.Scalars("train/elbo_nats_per_image")] == [
        (step, step - 100.0) for step in range(1, 8)
    ]
    assert (6, -7.5) in [(e.step, e.value) for e in found.Scalars("test/elbo_nats_per_image")]
    assert [e.step for e in found.Images("memory")][-1] == 7
    text = found.Tensors("configuration/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert yaml.safe_load(text.strip("`")) == {**FIELDS, "steps": 7}


def test_a_full_disk_under_tensorboard_is_an_output_error_and_no_hook_is_left(folder, monkeypatch):
    hook = threading.excepthook
    logger = LOGGERS["tensorboard"].open(folder, 1)
    monkeypatch.setattr(logger._writer, "add_scalar", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OutputError, match=r"tensorboard: .*No space left"):
        logger.add_scalars("train", {"x": 1.0}, 1)
    logger.close()
    assert threading.excepthook == hook


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    if not installed("wandb"):
        monkeypatch.setitem(sys.modules, "wandb", fake_wandb())


def rows_of_wandb(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of the history, and a row of the configuration for each session."""
    if not installed("wandb"):
        return [json.loads(line) for file in folder.wandb.glob("run-*.jsonl") for line in file.open()]
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for file in sorted(folder.wandb.glob("offline-run-*/run-*.wandb")):
        for content in _leveldb_records(file.read_bytes()):
            found = Record.FromString(content)
            if found.WhichOneof("record_type") == "history":
                items = found.history.item
                rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
            elif found.WhichOneof("record_type") == "config":
                rows.append({"config": {i.key: json.loads(i.value_json) for i in found.config.update}})
    return rows


def _leveldb_records(content: bytes, block: int = 32768):
    """Records of a LevelDB log after wandb's header: chunks of (checksum, length, type) and data, in blocks."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, or the last chunk
            yield whole
            whole = b""


@pytest.mark.usefixtures("wandb")
def test_wandb_keeps_its_files_in_the_run_folder_and_goes_on_with_its_run(folder):
    record("wandb", folder, 1, range(1, 4), best=2)
    run_id = (folder.wandb / "run_id.txt").read_text()
    record("wandb", folder, 4, range(4, 6), best=5)
    assert (folder.wandb / "run_id.txt").read_text() == run_id
    assert all(run_id in path.name for path in folder.wandb.glob("*run-*"))
    rows = rows_of_wandb(folder)
    train = {row["step"]: row["train/elbo_nats_per_image"] for row in rows if "train/elbo_nats_per_image" in row}
    test = {row["step"]: row["test/elbo_nats_per_image"] for row in rows if "test/elbo_nats_per_image" in row}
    assert train == {step: step - 100 for step in range(1, 6)} and test == {2: -7.5, 5: -7.5}
    counts = [row["_step"] for row in rows if "_step" in row]
    assert counts == sorted(counts)  # wandb drops the rows of an earlier step
    assert [row["config"]["steps"] for row in rows if "config" in row] == [3, 5]


@pytest.mark.usefixtures("wandb")
def test_the_id_of_a_run_that_is_none_is_refused(folder):
    folder.wandb.mkdir()
    (folder.wandb / "run_id.txt").write_text("no id\n" * 40)
    with pytest.raises(InputError, match=r"run_id\.txt: expected the id"):
        LOGGERS["wandb"].open(folder, 1)


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if not installed("mlflow"):
        for name, module in fake_mlflow().items():
            monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("mlflow")
@pytest.mark.parametrize("has_server", [False, True])
def test_mlflow_finds_one_run_with_both_sessions(folder, has_server, tmp_path, monkeypatch):
    address = f"sqlite:///{folder.mlflow}/mlflow.db"
    if has_server:
        address = f"sqlite:///{tmp_path}/server.db"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.chdir(tmp_path)  # where this store keeps its files
    record("mlflow", folder, 1, range(1, 4), best=2)
    record("mlflow", folder, 4, range(4, 6), best=5)
    from mlflow import MlflowClient

    client = MlflowClient(address)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    run_id = (folder.mlflow / "run_id.txt").read_text()
    assert [run.info.run_id for run in client.search_runs(experiments, f"attributes.run_id = '{run_id}'")] == [run_id]
    found = client.get_run(run_id)
    assert found.info.run_name == "run" and found.info.status == "FINISHED" and found.data.tags["steps"] == "5"
    values = [(m.step, m.value) for m in client.get_metric_history(run_id, "train/elbo_nats_per_image")]
    assert values == [(step, step - 100) for step in range(1, 6)]
    assert [m.step for m in client.get_metric_history(run_id, "test/elbo_nats_per_image")] == [2, 5]
    figures = [artifact.path for artifact in client.list_artifacts(run_id, "figures/memory")]
    assert figures == ["figures/memory/step_00000003.png", "figures/memory/step_00000005.png"]


@pytest.mark.usefixtures("mlflow")
def test_a_run_that_a_server_does_not_know_begins_there_anew(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record("mlflow", folder, 1, range(1, 3), best=2)
    first = (folder.mlflow / "run_id.txt").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    record("mlflow", folder, 3, range(3, 5), best=4)
    from mlflow import MlflowClient

    second = (folder.mlflow / "run_id.txt").read_text()
    history = MlflowClient(f"sqlite:///{tmp_path}/other.db").get_metric_history(second, "train/learning_rate")
    assert first != second
    assert [metric.step for metric in history] == [3, 4]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_command_before_anything_is_read_or_written(name, tmp_path, monkeypatch):
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(interface, "version", missing)
    flags = ["--logger", name, "--dataset", "mnist", "--data-dir", tmp_path / "nowhere"]
    sentence = f'error: --logger {name}: expected the package {name} (pip install -e ".[{name}]"), found none'
    for dry in ([], ["--dry-run"]):
        assert refused(run("svi_train.py", *flags, *dry, cwd=tmp_path)) == sentence
    assert not list(tmp_path.iterdir())


def test_an_unknown_logger_is_refused(tmp_path):
    sentence = refused(run("svi_train.py", "--logger", "tensorbord", cwd=tmp_path))
    assert "expected one of none, mlflow, tensorboard, wandb" in sentence and "did you mean tensorboard?" in sentence
    assert not list(tmp_path.iterdir())


def test_a_run_records_its_test_scores_at_the_best_step_and_its_configuration_and_may_change_its_logger(tmp_path):
    folder = tmp_path / "run"
    with without_figures():
        assert run("svi_train.py", *TINY, "--out", folder).returncode == 0
    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    (test,) = [json.loads(line) for line in (folder / "metrics.jsonl").open() if '"test"' in line]
    for name in test.keys() - {"step", "split"}:
        (scalar,) = found.Scalars(f"test/{name}")
        assert scalar.step == test["step"] == load_checkpoint(folder / "best.pt")["step"]
        assert scalar.value == pytest.approx(test[name], rel=1e-6)
    text = found.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    (tmp_path / "flags.yaml").write_text(text.strip("`"))
    assert Config.read(tmp_path / "flags.yaml") == Config.read(folder)
    events = list((folder / "tensorboard").iterdir())
    with without_figures():
        config = Config.read(folder, logger="none", steps=7)
        train(config, folder, resume=True)
    assert list((folder / "tensorboard").iterdir()) == events and Config.read(folder).training.logger == "none"
