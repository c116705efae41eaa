"""A grid: the flags of `svi_train.py` that vary, and those that all cells share."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from inference.ranges import ControlParticles, Limit, Particles, Seed
from inference.runs.presets import read_yaml
from kpp_pyro.errors import InputError
from kpp_pyro.schema import FileContent, check

Flags = dict[str, str]  # by the name of a field; values as on a command line
Axis = dict[str, Flags]  # the flags that each value sets, by the value's label

MOST_CELLS = 10_000
"""Largest number of cells of a grid; each is a run."""


def _listed(value: Any) -> Any:
    """The seeds that a number of seeds stands for."""
    return list(range(value)) if type(value) is int and 1 <= value <= MOST_CELLS else value


@cache
def _fields() -> dict[str, Any]:
    """Every field of a configuration with its default."""
    from inference.runs.config import Config

    return Config().flat()


Label = Annotated[str, BeforeValidator(str)]  # a YAML key may be a number
Value = str | int | float | bool | None


class Score(FileContent):
    """Flags of `evaluate.py`."""

    particles: Particles = 200
    limit: Limit = 512
    control_particles: ControlParticles = 0


class GridFile(FileContent):
    """The content of a grid's YAML file, see `Grid`."""

    title: Value = None
    base: dict[Label, Value] = {}  # noqa: RUF012, pydantic copies it
    vary: dict[Label, list[Value] | dict[Label, dict[Label, Value]]] = {}  # noqa: RUF012
    seeds: Annotated[list[Seed], Field(min_length=1), BeforeValidator(_listed)] = [0]  # noqa: RUF012
    score: Score = Score()


@dataclass(frozen=True)
class Grid:
    """Every combination of the values of some axes, with several seeds.

    Attributes:
        title: title of the table and the figure.
        base: flags that all cells share, unless an axis sets them.
        axes: axes by name.
        seeds: every combination is trained with each of them.
        score: flags of `evaluate.py`, by name.
    """

    title: str = ""
    base: Flags = field(default_factory=dict)
    axes: dict[str, Axis] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    score: dict[str, int] = field(default_factory=lambda: Score().model_dump())

    def combinations(self) -> Iterator[dict[str, str]]:
        """Every choice of one label per axis, by the name of the axis; the last axis changes fastest."""
        for labels in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, labels, strict=True))

    def flags(self, labels: Mapping[str, str], seed: int) -> Flags:
        """Flags of the cell of a combination and a seed."""
        flags = dict(self.base)
        for name, label in labels.items():
            flags |= self.axes[name][label]
        return {**flags, "seed": str(seed)}

    def with_axes(self, given: Sequence[str]) -> Grid:
        """Add or replace axes by the texts of `--vary`, `NAME=VALUE,VALUE`."""
        pairs = [_pair(text, "--vary", "AXIS=VALUE,VALUE,...") for text in given]
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise InputError(f"--vary {twice}: expected all values of an axis in one list, found the axis twice")
        axes = {name: _axis(name, values.split(",") if values else [], "--vary") for name, values in pairs}
        return self._with(axes=_disjoint(self.axes | axes, "--vary"))

    def with_base(self, given: Sequence[str], source: str = "--set") -> Grid:
        """Replace flags that all cells share by the texts of `--set`, `NAME=VALUE`."""
        base = _flags(dict(_pair(text, source, "NAME=VALUE") for text in given), source)
        for name, axis in self.axes.items():
            clash = next((flag for flags in axis.values() for flag in flags if flag in base), None)
            if clash:
                raise InputError(f"{source} {clash}: expected a flag that no axis sets, found one of the axis {name}")
        return self._with(base=self.base | base)

    def with_seeds(self, number: int) -> Grid:
        """Replace the seeds by 0, 1, ..., `number` - 1."""
        return self._with(seeds=tuple(range(number)))

    def with_score(self, **given: int | None) -> Grid:
        """Replace the given flags of `evaluate.py`; None leaves one unchanged."""
        return self._with(score=self.score | {name: value for name, value in given.items() if value is not None})

    def _with(self, **changes: Any) -> Grid:
        return dataclasses.replace(self, **changes)


def read_grid(path: Path) -> Grid:
    """Read a grid from a YAML file.

    Raises:
        InputError: a file that cannot be read, is not YAML, or has an unknown key or an invalid value.
    """
    content = read_yaml(path)
    _require_known(content, GridFile.model_fields, str(path))
    if isinstance(content.get("score"), dict):
        _require_known(content["score"], Score.model_fields, f"{path}: score")
    grid = check(content, GridFile, f"{path}: expected a grid")
    return Grid(
        path.stem if grid.title is None else str(grid.title),
        _flags(grid.base, f"{path}: base"),
        _disjoint({name: _axis(name, values, f"{path}: vary") for name, values in grid.vary.items()}, f"{path}: vary"),
        _seeds(grid.seeds, f"{path}: seeds"),
        grid.score.model_dump(),
    )


def is_numeric(labels: Sequence[str]) -> bool:
    """Whether the labels of an axis are numbers."""
    try:
        return all(math.isfinite(float(label)) for label in labels)
    except ValueError:
        return False


def _disjoint(axes: dict[str, Axis], source: str) -> dict[str, Axis]:
    """The axes; raises InputError if two set the same flag, since the label of one would then be wrong."""
    owners: dict[str, str] = {}
    for name, axis in axes.items():
        for flag in dict.fromkeys(flag for flags in axis.values() for flag in flags):
            owner = owners.setdefault(flag, name)
            if owner != name:
                raise InputError(f"{source}: expected one axis to set {flag}, found two, {owner} and {name}")
    return axes


def _axis(name: str, values: list[Value] | dict[str, dict[str, Value]] | Sequence[str], source: str) -> Axis:
    """An axis: a list of values of the flag with its name, or labels with the flags that each sets."""
    source = f"{source} {name}"
    if not values:
        raise InputError(f"{source}: expected a list of values, or labels with their flags, found none")
    if isinstance(values, dict):
        pairs = [(label, _flags(flags, source)) for label, flags in values.items()]
    else:
        pairs = [(flags[name], flags) for flags in (_flags({name: value}, source) for value in values)]
    twice = [label for label, _ in pairs if [other for other, _ in pairs].count(label) > 1]
    if twice:
        raise InputError(f"{source}: expected different values, found {twice[0]} twice")
    return dict(pairs)


def _flags(values: Mapping[str, Value], source: str) -> Flags:
    """Flags as on a command line; raises InputError for a name that `svi_train.py` does not have."""
    names = [str(name).replace("-", "_") for name in values]
    _require_known(names, [name for name in _fields() if name != "seed"], source)
    return {name: _text(name, value, source) for name, value in zip(names, values.values(), strict=True)}


def _text(name: str, value: Value, source: str) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not text:
        raise InputError(f"{source}: expected one value for {name}, found {value!r}")
    if isinstance(_fields()[name], bool) and text not in ("true", "false"):
        raise InputError(f"{source}: expected true or false for {name}, found {text}")
    return text


def _seeds(seeds: Sequence[int], source: str) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{source}: expected different seeds, found {list(seeds)!r:.100}")
    return tuple(seeds)


def _pair(text: str, flag: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(f"{flag}: expected {form}, found {text!r}")
    return name.strip().replace("-", "_"), value.strip()


def _require_known(names: Iterable[Any], known: Iterable[str], source: str) -> None:
    """Raise InputError, with the nearest known name, for an unknown name."""
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            expected = f"another name (did you mean {near[0]}?)" if near else f"names among {', '.join(known)}"
            raise InputError(f"{source}: expected {expected}, found {name}")
