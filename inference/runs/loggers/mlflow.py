"""MLflow: the server of `MLFLOW_TRACKING_URI`, or else a database in the run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inference.runs.loggers.interface import LOGGERS, Logger, LoggerKind, read_id, recording
from kpp_pyro.files.atomic import make_folder
from kpp_pyro.files.run_folder import RunFolder, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXPERIMENT = "kpp-pyro"  # of a server, unless MLFLOW_EXPERIMENT_NAME names another


class MlflowLogger(Logger):
    """Records to a run of MLflow. Arguments are those of `LoggerKind.open`.

    A database in the run folder is `mlflow/mlflow.db`. Its experiment has the folder's path as its name, since MLflow
    keeps absolute paths: a run that goes on in a folder that was moved is a new run of MLflow.
    """

    def __init__(self, folder: RunFolder, next_step: int) -> None:
        from mlflow import MlflowClient, MlflowException  # not at the top: it is optional

        self._errors, id_file = MlflowException, folder.mlflow / "run_id.txt"
        server, place = os.environ.get("MLFLOW_TRACKING_URI"), folder.mlflow.resolve()
        make_folder(place)
        with recording("mlflow", self._errors):
            if server:
                self._client, location = MlflowClient(server), None
                experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
            else:
                self._client, location = MlflowClient(f"sqlite:///{place / 'mlflow.db'}"), (place / "files").as_uri()
                experiment = str(place.parent)
            self._run_id = self._open_run(self._experiment_id(experiment, location), folder, read_id(id_file))
        write_text(id_file, self._run_id)

    def _experiment_id(self, name: str, location: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name, location))

    def _open_run(self, experiment_id: str, folder: RunFolder, run_id: str | None) -> str:
        """The id of the run that an earlier session began, or of a new one."""
        known = run_id and self._client.search_runs([experiment_id], f"attributes.run_id = '{run_id}'")
        if run_id and known:
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        return str(self._client.create_run(experiment_id, run_name=folder.path.name).info.run_id)

    def add_config(self, fields: Mapping[str, Any]) -> None:
        """Record the configuration as a file and as tags: a parameter of MLflow could not change in a resumed run."""
        from mlflow.entities import RunTag

        with recording("mlflow", self._errors):
            self._client.log_dict(self._run_id, dict(fields), "configuration.yaml")
            self._client.log_batch(self._run_id, tags=[RunTag(name, str(value)) for name, value in fields.items()])

    def add_scalars(self, split: str, quantities: Mapping[str, float], step: int) -> None:
        """Record quantities by name."""
        from mlflow.entities import Metric

        now_ms = int(1000 * time.time())
        metrics = [Metric(f"{split}/{name}", value, now_ms, step) for name, value in quantities.items()]
        with recording("mlflow", self._errors):
            self._client.log_batch(self._run_id, metrics)

    def add_figures(self, figures: Mapping[str, Figure], step: int) -> None:
        """Record figures by name and step."""
        with recording("mlflow", self._errors):
            for name, figure in figures.items():
                self._client.log_figure(self._run_id, figure, f"figures/{name}/step_{step:08d}.png")

    def close(self) -> None:
        """End the run."""
        with recording("mlflow", self._errors):
            self._client.set_terminated(self._run_id)


LOGGERS["mlflow"] = LoggerKind(MlflowLogger, package="mlflow")
