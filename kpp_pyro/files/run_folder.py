"""The run folder: configuration, metrics, checkpoints, reports and figures of one run."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kpp_pyro.errors import UNREADABLE, InputError, reason
from kpp_pyro.files.atomic import atomic_write, writing

VERSION = 2
"""Version of config.json; runs of another version cannot be loaded."""
_LIBRARIES = ("torch", "torchvision", "pyro-ppl", "numpy", "scipy", "scikit-learn", "matplotlib", "arviz")


class RunFolder:
    """Paths of a run's files, with methods that read and write them.

    Args:
        path: the folder.
    """

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

    def __repr__(self) -> str:
        """The path."""
        return f"RunFolder({str(self.path)!r})"

    def require_new(self) -> None:
        """Raise InputError if the folder contains a run, or files of a run's names."""
        if self.config.exists():
            resume = shlex.join(["--resume", str(self.path)])
            raise InputError(f"--out {self.path}: expected a new folder, found a run; go on with {resume}")
        reports = (self.evaluation, self.posterior, self.denoising, self.generation)
        for path in (self.metrics, self.checkpoint, self.best, self.tensorboard, *reports, *self.figures.glob("*")):
            if path.exists():
                raise InputError(f"--out {self.path}: expected a new folder, found {path.relative_to(self.path)} in it")

    def create(self) -> None:
        """Create the folder of a new run.

        Raises:
            InputError: the folder contains a run, or cannot be created.
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
        """Raise InputError unless files can be added to the run; called before long computations."""
        for folder in (self.path, self.figures, self.tensorboard):
            if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
                raise InputError(f"{folder}: expected a folder that can be written to, found none")

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open the folder of an existing run.

        Raises:
            InputError: the folder contains no run.
        """
        run = cls(path)
        if not run.config.is_file():
            raise InputError(f"{path}: expected a run folder with config.json, found none")
        return run

    def write_config(self, config: Mapping[str, Any], sizes: Mapping[str, Any]) -> None:
        """Write config.json: the resolved configuration, the derived sizes, and the present and earlier environments.

        Args:
            config: the resolved configuration.
            sizes: derived sizes, such as "image_shape".
        """
        earlier = []
        if self.config.exists():
            old = json.loads(self.config.read_text())
            past = old.get("earlier_environments")
            earlier = [*(past if isinstance(past, list) else []), old.get("environment")]
        now = {"config": config, "sizes": sizes, "environment": environment(), "earlier_environments": earlier}
        write_json(self.config, {"version": VERSION, **now})

    def read_config(self) -> dict[str, Any]:
        """Read the resolved configuration.

        Raises:
            InputError: the file was not written by `write_config`, or by that of another version.
        """
        return read_config(self.config)

    def read_image_shape(self) -> tuple[int, int, int]:
        """Read the image shape (C, H, W) of the run.

        Raises:
            InputError: config.json has no image shape.
        """
        try:
            channels, height, width = map(int, json.loads(self.config.read_text())["sizes"]["image_shape"])
        except UNREADABLE as error:
            raise InputError(f"{self.config}: expected sizes with an image_shape, found {reason(error)}") from error
        return channels, height, width

    def read_evaluation(self) -> dict[str, Any]:
        """Read the report of evaluate.py: "settings" and "scores".

        Raises:
            InputError: the report is missing or was not written by evaluate.py.
        """
        return _read_report(self.evaluation, "evaluate.py", "scores")

    def read_denoising(self) -> dict[str, Any]:
        """Read the report of denoise.py: "settings" and "results".

        Raises:
            InputError: the report is missing or was not written by denoise.py.
        """
        return _read_report(self.denoising, "denoise.py", "results")

    def read_generation(self) -> dict[str, Any]:
        """Read the report of generate.py: "settings" and "results".

        Raises:
            InputError: the report is missing or was not written by generate.py.
        """
        return _read_report(self.generation, "generate.py", "results")

    def log(self, step: int, split: str, quantities: Mapping[str, float]) -> None:
        """Append one record to metrics.jsonl.

        Args:
            step: of the training.
            split: "train", "validation" or "test".
            quantities: numbers by name.
        """
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **quantities}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl; a last line that a crash truncated is left out.

        Raises:
            InputError: any other line that was not written by `log`.
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
        """Delete the records of later steps and of the test set, which a resumed run writes again."""
        records = self.read_metrics()
        kept = [json.dumps(record) for record in records if record["step"] <= step and record["split"] != "test"]
        write_text(self.metrics, "".join(f"{line}\n" for line in kept))


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration in a run's config.json.

    Raises:
        InputError: no such file, another file, or the config.json of another version.
    """
    try:
        content = json.loads(path.read_text())
        config, found = dict(content["config"]), content.get("version", 1)
    except OSError as error:
        raise InputError(f"{path}: expected a configuration, found none ({error.strerror})") from error
    except UNREADABLE as error:
        raise InputError(f"{path}: expected the config.json of a run, found another file ({reason(error)})") from error
    if found != VERSION:
        newer = isinstance(found, int) and found > VERSION
        advice = "update kpp-pyro" if newer else "train it again"
        raise InputError(f"{path}: expected a run of version {VERSION}, found one of version {found!r}; {advice}")
    return config


def _read_report(path: Path, script: str, key: str) -> dict[str, Any]:
    """Read a script's JSON report, an object with "settings" and `key`."""
    if not path.is_file():
        raise InputError(f"{path}: expected {key}, found no such file; write them with {script}")
    try:
        content = json.loads(path.read_text())
        return {**content, "settings": dict(content["settings"]), key: content[key]}
    except UNREADABLE as error:
        raise InputError(f"{path}: expected {key} written by {script}, found {reason(error)}") from error


def _parse_record(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl as an object with "step" and "split"; None if it is no such object."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # neither JSON nor text
        return None
    return record if isinstance(record, dict) and {"step", "split"} <= record.keys() else None


def environment() -> dict[str, Any]:
    """Versions of the libraries, the machine, and the git commit of this package."""
    return {
        "libraries": {name: version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "cpu_threads": torch.get_num_threads(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of this source, with "-dirty" if files differ from it; None if git does not track this file."""
    try:
        _git("ls-files", "--error-unmatch", __file__)
        return _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; non-finite numbers become null.

    Raises:
        InputError: the file cannot be written.
    """
    write_text(path, json.dumps(_without_nonfinite(content), indent=2, default=str, allow_nan=False) + "\n")


def _without_nonfinite(content: Any) -> Any:
    """The content with None in place of every non-finite number."""
    if isinstance(content, dict):
        return {key: _without_nonfinite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nonfinite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_text(path: Path, content: str) -> None:
    """Write text atomically.

    Raises:
        InputError: the file cannot be written.
    """
    with writing(path):
        atomic_write(path, lambda file: file.write_text(content))
