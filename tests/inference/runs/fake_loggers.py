"""Stand-ins for wandb and MLflow, where they are not installed: what `inference.runs.loggers` uses of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar


class FakeWandbRun:
    """Writes the rows of its history into its folder, as wandb does."""

    def __init__(self, folder: Path, run_id: str | None) -> None:
        self.id, self.config = run_id or "fake1234", {}
        self.file = folder / "wandb" / f"run-{self.id}.jsonl"
        self.file.parent.mkdir(exist_ok=True)

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, Any], step: int) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"_step": step, **values}, default=str) + "\n")

    def finish(self) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"config": self.config}) + "\n")


class _Config(dict):
    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:  # type: ignore[override]
        assert allow_val_change
        super().update(values)


def fake_wandb() -> ModuleType:
    """A module `wandb`."""

    def init(*, dir: Path, id: str | None, resume: str | None, **_: Any) -> FakeWandbRun:
        assert resume == ("allow" if id else None)
        run = FakeWandbRun(dir, id)
        run.config = _Config()
        return run

    module = ModuleType("wandb")
    parts = {"init": init, "Error": RuntimeError, "Settings": SimpleNamespace, "Image": lambda pixels: pixels.shape}
    vars(module).update(parts)
    return module


class FakeMlflowClient:
    """Keeps runs in memory, by the address of the store."""

    stores: ClassVar[dict[str, dict[str, Any]]] = {}
    numbers: ClassVar[Iterator[int]] = count()

    def __init__(self, address: str) -> None:
        self.runs = self.stores.setdefault(address, {})

    def get_experiment_by_name(self, name: str) -> Any:
        return next((SimpleNamespace(experiment_id=name) for run in self.runs.values() if run.experiment == name), None)

    def create_experiment(self, name: str, location: str | None) -> str:
        return name

    def search_experiments(self) -> list[Any]:
        return [SimpleNamespace(experiment_id=name) for name in {run.experiment for run in self.runs.values()}]

    def search_runs(self, experiments: list[str], filter_string: str = "") -> list[Any]:
        return [run for run in self.runs.values() if run.experiment in experiments and run.info.run_id in filter_string]

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        info = SimpleNamespace(run_id=f"run{next(self.numbers)}", run_name=run_name, status="RUNNING")
        data = SimpleNamespace(tags={})
        run = SimpleNamespace(info=info, data=data, experiment=experiment_id, metrics=[], artifacts=[])
        self.runs[info.run_id] = run
        return run

    def get_run(self, run_id: str) -> Any:
        return self.runs[run_id]

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id].info.status = status

    def set_terminated(self, run_id: str) -> None:
        self.update_run(run_id, "FINISHED")

    def log_batch(self, run_id: str, metrics: Any = (), tags: Any = ()) -> None:
        self.runs[run_id].metrics += metrics
        self.runs[run_id].data.tags |= {tag.key: tag.value for tag in tags}

    def log_dict(self, run_id: str, content: dict[str, Any], name: str) -> None:
        self.runs[run_id].artifacts.append(name)

    def log_figure(self, run_id: str, figure: Any, name: str) -> None:
        self.runs[run_id].artifacts.append(name)

    def get_metric_history(self, run_id: str, name: str) -> list[Any]:
        return [metric for metric in self.runs[run_id].metrics if metric.key == name]

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[Any]:
        names = [name for name in self.runs[run_id].artifacts if path is None or name.startswith(path)]
        return [SimpleNamespace(path=name) for name in names]


def fake_mlflow() -> dict[str, ModuleType]:
    """The modules `mlflow` and `mlflow.entities`."""
    mlflow, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    vars(mlflow).update(MlflowClient=FakeMlflowClient, MlflowException=RuntimeError, entities=entities)

    def metric(key: str, value: float, timestamp: int, step: int) -> Any:
        return SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)

    vars(entities).update(Metric=metric, RunTag=lambda key, value: SimpleNamespace(key=key, value=value))
    return {"mlflow": mlflow, "mlflow.entities": entities}
