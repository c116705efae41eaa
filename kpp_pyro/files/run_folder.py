"""The run folder: configuration, metrics, checkpoints, reports and figures of one run."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from kpp_pyro.distances import SQUARED_ERROR
from kpp_pyro.errors import InputError, OutputError
from kpp_pyro.files.atomic import atomic_write, make_folder, writing
from kpp_pyro.files.reading import as_path, reading
from kpp_pyro.files.run_schemas import (
    ConfigFile,
    Denoising,
    Evaluation,
    FromPrior,
    Generation,
    LevelDenoising,
    LevelGeneration,
    MetricsRecord,
    PluginRecord,
    Version,
)
from kpp_pyro.likelihoods import with_bits_per_dim
from kpp_pyro.schema import FileContent, parse_json

VERSION = 2
"""Version of config.json; runs of another version cannot be loaded."""
_CONFIG = "the config.json of a run"
Config = TypeVar("Config", bound=Version)
_LIBRARIES = ("torch", "torchvision", "pyro-ppl", "numpy", "scipy", "scikit-learn", "matplotlib", "arviz")


class RunFolder:
    """Paths of a run's files, with methods that read and write them.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        path = as_path(path, "a run folder")
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.pt"
        self.best = path / "best.pt"
        self.figures = path / "figures"
        self.tensorboard = path / "tensorboard"
        self.wandb = path / "wandb"
        self.mlflow = path / "mlflow"
        self.evaluation = path / "evaluation.json"
        self.posterior = path / "posterior.nc"
        self.denoising = path / "denoise.json"
        self.generation = path / "generate.json"
        self.from_prior = path / "from_prior.json"

    def __repr__(self) -> str:
        """The path."""
        return f"RunFolder({str(self.path)!r})"

    @property
    def _reports(self) -> tuple[Path, ...]:
        """What scripts add to a run."""
        return self.evaluation, self.posterior, self.denoising, self.generation, self.from_prior

    @property
    def _records(self) -> tuple[Path, ...]:
        """Folders of the loggers."""
        return self.tensorboard, self.wandb, self.mlflow

    def require_new(self) -> None:
        """Raise InputError if the folder contains a run, or files of a run's names."""
        if self.config.exists():
            resume = shlex.join(["--resume", str(self.path)])
            raise InputError(f"--out {self.path}: expected a new folder, found a run; go on with {resume}")
        trained = (self.metrics, self.checkpoint, self.best)
        files = (*trained, *self._records, *self._reports, *self.figures.glob("[!.]*"))
        for path in files:
            of_failed_start = path == self.metrics and path.is_file() and path.stat().st_size == 0
            if path.exists() and not of_failed_start:
                raise InputError(f"--out {self.path}: expected a new folder, found {path.relative_to(self.path)} in it")

    def create(self) -> None:
        """Create the folder of a new run.

        Raises:
            InputError: the folder contains a run.
            OutputError: the folder cannot be created.
        """
        self.require_new()
        make_folder(self.figures)
        with writing(self.metrics):
            self.metrics.touch()

    def require_writable(self) -> None:
        """Raise InputError unless files can be added to the run; called before long computations."""
        for folder in (self.path, self.figures, *self._records):
            if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
                raise InputError(f"{folder}: expected a folder that can be written to, found none")
        for file in self._reports:
            if os.path.lexists(file) and not file.is_file():
                raise InputError(
                    f"{file}: expected a file that can be written, found a folder, a pipe or a broken link"
                )

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

    def write_config(
        self, config: Mapping[str, Any], sizes: Mapping[str, Any], plugins: Sequence[PluginRecord] = ()
    ) -> None:
        """Write config.json: the resolved configuration, the derived sizes, and the present and earlier environments.

        Args:
            config: the resolved configuration.
            sizes: derived sizes, such as "image_shape".
            plugins: those whose parts the configuration names.

        Raises:
            InputError: an earlier config.json that was not written by this method.
            OutputError: the file cannot be written.
        """
        earlier: list[Any] = []
        if self.config.exists():
            old = self._read_config()
            earlier = [*old.earlier_environments, old.environment and old.environment.model_dump(exclude_unset=True)]
        now = {"config": config, "sizes": sizes, "environment": environment(), "earlier_environments": earlier}
        used = {"plugins": [plugin.model_dump() for plugin in plugins]} if plugins else {}
        write_json(self.config, {"version": VERSION, **now, **used})

    def read_config(self) -> dict[str, Any]:
        """Read the resolved configuration.

        Raises:
            InputError: the file was not written by `write_config`, or by that of another version.
        """
        return read_config(self.config)

    def read_image_shape(self) -> tuple[int, int, int]:
        """Read the image shape (C, H, W) of the run.

        Raises:
            InputError: the file was not written by `write_config`, or by that of another version.
        """
        return self._read_config().sizes.image_shape

    def read_threads(self) -> int | None:
        """Read with how many threads on the CPU the run was last trained; None if its config.json does not say.

        Raises:
            InputError: the file was not written by `write_config`, or by that of another version.
        """
        environment = self._read_config().environment
        return environment.cpu_threads if environment else None

    def _read_config(self) -> ConfigFile:
        return _read_config(self.config, ConfigFile)

    def read_evaluation(self) -> dict[str, Any]:
        """Read the report of evaluate.py: "settings", "scores" and more, see `Evaluation`.

        Raises:
            InputError: the report is missing or was not written by evaluate.py.
        """
        return _read_report(self.evaluation, "evaluate.py", Evaluation)

    def read_denoising(self) -> dict[str, Any]:
        """Read the report of denoise.py: "settings" and "results", see `Denoising`.

        Raises:
            InputError: the report is missing or was not written by denoise.py.
        """
        return _read_report(self.denoising, "denoise.py", Denoising, LevelDenoising)

    def read_generation(self) -> dict[str, Any]:
        """Read the report of generate.py: "settings" and "results", see `Generation`.

        Raises:
            InputError: the report is missing or was not written by generate.py.
        """
        return _read_report(self.generation, "generate.py", Generation, LevelGeneration)

    def read_from_prior(self) -> dict[str, Any]:
        """Read the report of generate.py --from-prior: "settings" and "results", see `FromPrior`.

        Raises:
            InputError: the report is missing or was not written by generate.py --from-prior.
        """
        return _read_report(self.from_prior, "generate.py --from-prior", FromPrior)

    def write_evaluation(self, content: dict[str, Any]) -> None:
        """Write the report of evaluate.py, see `_write_report`."""
        _write_report(self.evaluation, content, Evaluation)

    def write_denoising(self, content: dict[str, Any]) -> None:
        """Write the report of denoise.py, see `_write_report`."""
        _write_report(self.denoising, content, Denoising, LevelDenoising)

    def write_generation(self, content: dict[str, Any]) -> None:
        """Write the report of generate.py, see `_write_report`."""
        _write_report(self.generation, content, Generation, LevelGeneration)

    def write_from_prior(self, content: dict[str, Any]) -> None:
        """Write the report of generate.py --from-prior, see `_write_report`."""
        _write_report(self.from_prior, content, FromPrior)

    def require_readable(self) -> None:
        """Raise InputError if a report of the run is damaged."""
        readers = {
            self.evaluation: self.read_evaluation,
            self.denoising: self.read_denoising,
            self.generation: self.read_generation,
            self.from_prior: self.read_from_prior,
        }
        for path, read in readers.items():
            if path.exists():
                read()

    def log(self, step: int, split: str, quantities: Mapping[str, float]) -> None:
        """Append one record to metrics.jsonl.

        Args:
            step: of the training.
            split: "train", "validation" or "test".
            quantities: numbers by name; those that are not finite become null.

        Raises:
            OutputError: the file cannot be written.
        """
        line = json.dumps(_without_nonfinite({"step": step, "split": split, **quantities}))
        with writing(self.metrics), self.metrics.open("a") as file:
            file.write(f"{line}\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl; a last line that a crash truncated is left out.

        Raises:
            InputError: any other line that was not written by `log`.
        """
        if not self.metrics.exists():
            return []
        with reading(self.metrics, "the metrics of a run") as file:
            lines = file.readlines()
        expected = f"{self.metrics}: expected quantities by step and split in line"
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(parse_json(line, MetricsRecord, f"{expected} {number}").model_dump())
            except InputError:
                if line.endswith(b"\n"):
                    raise
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
    return _read_config(path, Version).config


def read_plugins(path: Path) -> tuple[PluginRecord, ...]:
    """Read the plug-ins that a run's config.json names.

    Raises:
        InputError: see `read_config`.
    """
    return _read_config(path, Version).plugins


def _read_config(path: Path, schema: type[Config]) -> Config:
    """Read a config.json of this version."""
    text, expected = _read(path, _CONFIG), f"{path}: expected {_CONFIG}"
    found = parse_json(text, Version, expected)
    if found.version != VERSION:
        advice = "update kpp-pyro" if found.version > VERSION else "train it again"
        raise InputError(f"{path}: expected a run of version {VERSION}, found one of version {found.version}; {advice}")
    return parse_json(text, schema, expected)


def _read_report(
    path: Path, script: str, schema: type[FileContent], of_levels: type[FileContent] | None = None
) -> dict[str, Any]:
    """Read a script's JSON report; see `_schema_of` for the two schemas."""
    what = f"a report of {script}"
    text = _read(path, what)
    return parse_json(text, _schema_of(text, schema, of_levels), f"{path}: expected {what}").model_dump()


def _schema_of(text: bytes, schema: type[FileContent], of_levels: type[FileContent] | None) -> type[FileContent]:
    """The schema of a report: `of_levels` if it names squared errors, which only images of grey levels have."""
    return of_levels if of_levels is not None and SQUARED_ERROR.name.encode() in text else schema


def _read(path: Path, what: str) -> bytes:
    """The bytes of a file; `what` is the file in words, for error messages."""
    with reading(path, what) as file:
        return file.read()


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


def _write_report(
    path: Path, content: dict[str, Any], schema: type[FileContent], of_levels: type[FileContent] | None = None
) -> None:
    """Write a report atomically, once it is known to be one that can be read; bits per dimension are added.

    Raises:
        OutputError: numbers that are not finite where a report needs numbers, or a file that cannot be written.
    """
    text = _json(with_bits_per_dim(content, content["settings"]["image_shape"]))
    try:
        chosen = _schema_of(text.encode(), schema, of_levels)
        parse_json(text.encode(), chosen, f"{path}: expected finite numbers for the report")
    except InputError as error:
        raise OutputError(f"{error}; the file is as it was") from error
    write_text(path, text)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; non-finite numbers become null.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, _json(content))


def _json(content: Any) -> str:
    return json.dumps(_without_nonfinite(content), indent=2, default=str, allow_nan=False) + "\n"


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
        OutputError: the file cannot be written.
    """
    atomic_write(path, content.encode(errors="backslashreplace"))
