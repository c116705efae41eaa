"""A run folder: the one place that holds everything of a run."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import atomic_write, writing

_LIBRARIES = ("torch", "torchvision", "pyro-ppl", "numpy", "scipy", "scikit-learn", "matplotlib", "arviz")


class RunFolder:
    """Files of a run: configuration, metrics, checkpoints and figures."""

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.pt"
        self.best = path / "best.pt"
        self.figures = path / "figures"
        self.tensorboard = path / "tensorboard"
        self.evaluation = path / "evaluation.json"
        self.posterior = path / "posterior.nc"
        self.denoising = path / "denoise.json"
        self.generation = path / "generate.json"

    def require_new(self) -> None:
        """Raise InputError if the folder holds a run already."""
        if self.config.exists():
            raise InputError(f"--out {self.path}: expected a new folder, found a run; go on with --resume {self.path}")

    def create(self) -> None:
        """Make the folder of a new run.

        Raises:
            InputError: the folder holds a run already, or cannot be made.
        """
        self.require_new()
        try:
            self.figures.mkdir(parents=True, exist_ok=True)
            self.metrics.touch()
        except OSError as error:
            raise InputError(
                f"--out {self.path}: expected a folder that can be written, found {error.strerror}"
            ) from error

    def require_writable(self) -> None:
        """Raise InputError unless files can be added to the run, so that no work is done in vain."""
        for folder in (self.path, self.figures):
            if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
                raise InputError(f"{folder}: expected a folder that can be written to, found none")

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open the folder of a run.

        Raises:
            InputError: the folder holds no run.
        """
        run = cls(path)
        if not run.config.is_file():
            raise InputError(f"{path}: expected a run folder with config.json, found none")
        return run

    def write_config(self, config: Mapping[str, Any], sizes: Mapping[str, Any]) -> None:
        """Write the resolved configuration, the sizes that follow from it, and what it runs on, now and before."""
        earlier = []
        if self.config.exists():
            written = json.loads(self.config.read_text())
            earlier = [*written.get("earlier_environments", []), written.get("environment")]
        content = {"config": config, "sizes": sizes, "environment": environment(), "earlier_environments": earlier}
        write_json(self.config, content)

    def read_config(self) -> dict[str, Any]:
        """Read the resolved configuration.

        Raises:
            InputError: the file is not what `write_config` writes.
        """
        try:
            return dict(json.loads(self.config.read_text())["config"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.config}: expected a configuration written by svi_train, found {error!r}"
            ) from error

    def read_image_shape(self) -> tuple[int, int, int]:
        """Read (C, H, W) of the images that the run is of.

        Raises:
            InputError: the file does not say.
        """
        try:
            channels, height, width = map(int, json.loads(self.config.read_text())["sizes"]["image_shape"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.config}: expected sizes with an image_shape, found {error!r}") from error
        return channels, height, width

    def read_evaluation(self) -> dict[str, Any]:
        """Read the scores that evaluate.py wrote. Raises InputError if there are none, or not of that script."""
        return _read_report(self.evaluation, "evaluate.py", "scores")

    def read_denoising(self) -> dict[str, Any]:
        """Read the errors that denoise.py wrote. Raises InputError if there are none, or not of that script."""
        return _read_report(self.denoising, "denoise.py", "results")

    def read_generation(self) -> dict[str, Any]:
        """Read the numbers that generate.py wrote. Raises InputError if there are none, or not of that script."""
        return _read_report(self.generation, "generate.py", "results")

    def log(self, step: int, split: str, quantities: Mapping[str, float]) -> None:
        """Append one line of metrics."""
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **quantities}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics; a last line cut short by a crash is left out.

        Raises:
            InputError: another line that `log` did not write.
        """
        lines = self.metrics.read_bytes().splitlines() if self.metrics.exists() else []
        records = []
        for number, line in enumerate(lines, 1):
            record = _parse_record(line)
            if record is not None:
                records.append(record)
            elif number < len(lines):
                raise InputError(f"{self.metrics}: expected an object with step and split in line {number}, found none")
        return records

    def forget_after(self, step: int) -> None:
        """Drop the metrics of later steps and of the test set, which a resumed run will write again."""
        records = self.read_metrics()
        kept = [json.dumps(record) for record in records if record["step"] <= step and record["split"] != "test"]
        write_text(self.metrics, "".join(f"{line}\n" for line in kept))


def _read_report(path: Path, script: str, key: str) -> dict[str, Any]:
    """Read what a script wrote: an object with settings and `key`."""
    if not path.is_file():
        raise InputError(f"{path}: expected {key}, found no such file; write them with {script}")
    try:
        content = json.loads(path.read_text())
        return {"settings": content["settings"], key: content[key], **content}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected {key} written by {script}, found {error!r}") from error


def _parse_record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # not JSON, or not text
        return None
    return record if isinstance(record, dict) and {"step", "split"} <= record.keys() else None


def environment() -> dict[str, Any]:
    """Library versions, machine and git commit."""
    return {
        "libraries": {name: version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "cpu_threads": torch.get_num_threads(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the source that runs, marked if files have changed since; None for a copy that git does not track."""
    try:
        _git("ls-files", "--error-unmatch", __file__)
        return _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; a number that is not finite becomes null."""
    write_text(path, json.dumps(_finite(content), indent=2, default=str, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_text(path: Path, content: str) -> None:
    """Write text whole or not at all. Raises InputError where it cannot be written."""
    with writing(path):
        atomic_write(path, lambda file: file.write_text(content))
