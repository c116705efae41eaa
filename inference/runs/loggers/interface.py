"""Base class of loggers, the registry, and what loggers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpp_pyro.errors import InputError, OutputError, reason
from kpp_pyro.files.reading import reading
from kpp_pyro.files.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ID = re.compile(rb"[\w-]{1,64}")


class Logger:
    """Records a run for a viewer, in addition to the files of the run folder. This base class records nothing.

    Every method raises OutputError where the record cannot be written.
    """

    def add_config(self, fields: Mapping[str, Any]) -> None:
        """Record the configuration: JSON values by the name of their field."""

    def add_scalars(self, split: str, quantities: Mapping[str, float], step: int) -> None:
        """Record quantities by name, of "train", "validation" or "test"; a step may be earlier than those before."""

    def add_figures(self, figures: Mapping[str, Figure], step: int) -> None:
        """Record figures by name."""

    def close(self) -> None:
        """Write what is still in memory; nothing is recorded afterwards."""


@dataclass(frozen=True)
class LoggerKind:
    """How to open a logger.

    Attributes:
        open: makes the logger of a run folder. Its second argument is the next step of training: records of later
            steps, which an interrupted run left, no longer count. The record of a resumed run goes on.
        package: optional package that it needs, and the name of this project's extra that installs it.
    """

    open: Callable[[RunFolder, int], Logger]
    package: str | None = None

    def require_installed(self) -> None:
        """Raise InputError if the package is missing."""
        if self.package is None:
            return
        try:
            version(self.package)
        except PackageNotFoundError as error:
            expected = f'the package {self.package} (pip install -e ".[{self.package}]")'
            raise InputError(f"--logger {self.package}: expected {expected}, found none") from error


LOGGERS: dict[str, LoggerKind] = {"none": LoggerKind(lambda _folder, _next_step: Logger())}
"""Kinds of loggers by name."""


@contextmanager
def recording(logger: str, library_error: type[Exception]) -> Iterator[None]:
    """Inside this context, an error of a logger's library, or an OSError, becomes an OutputError."""
    try:
        yield
    except (OSError, library_error) as error:
        raise OutputError(f"--logger {logger}: expected a record that can be written, found {reason(error)}") from error


def read_id(path: Path) -> str | None:
    """The name by which a service knows the run, from the file that an earlier session wrote; None without a file.

    Raises:
        InputError: a file with other content.
    """
    if not path.exists():
        return None
    with reading(path, "the id of a logger's run") as file:
        content = file.read(100).strip()
    if not _ID.fullmatch(content):
        raise InputError(f"{path}: expected the id of a logger's run, found {content!r:.40}")
    return content.decode()
