"""A grid: the flags of `svi_train.py` that vary, and those that all cells share."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from inference.runs.config import Config
from inference.runs.presets import read_yaml
from kpp_pyro.errors import InputError

Flags = dict[str, str]  # by the name of a field; values as on a command line
Axis = dict[str, Flags]  # the flags that each value sets, by the value's label

_KEYS = ("title", "base", "vary", "seeds", "score")
_SCORE = {"particles": 200, "limit": 512, "control_particles": 0}
_SMALLEST_SCORE = {"particles": 1, "limit": 1, "control_particles": 0}
_FIELDS = Config().flat()


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
    score: dict[str, int] = field(default_factory=lambda: dict(_SCORE))

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
        return self._with(seeds=_seeds(number, "--seeds"))

    def with_score(self, **given: int | None) -> Grid:
        """Replace the given flags of `evaluate.py`; None leaves one unchanged."""
        named = {name: value for name, value in given.items() if value is not None}
        return self._with(score=self.score | _score(named, "the flags"))

    def _with(self, **changes: Any) -> Grid:
        return dataclasses.replace(self, **changes)


def read_grid(path: Path) -> Grid:
    """Read a grid from a YAML file.

    Raises:
        InputError: a file that cannot be read, is not YAML, or has an unknown key or an invalid value.
    """
    content = read_yaml(path)
    _require_known(content, _KEYS, str(path))
    vary = _mapping(content.get("vary", {}), f"{path}: vary")
    return Grid(
        str(content.get("title", path.stem)),
        _flags(_mapping(content.get("base", {}), f"{path}: base"), f"{path}: base"),
        _disjoint(
            {str(name): _axis(str(name), values, f"{path}: vary") for name, values in vary.items()}, f"{path}: vary"
        ),
        _seeds(content.get("seeds", 1), f"{path}: seeds"),
        _SCORE | _score(_mapping(content.get("score", {}), f"{path}: score"), f"{path}: score"),
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


def _axis(name: str, values: Any, source: str) -> Axis:
    """An axis: a list of values of the flag with its name, or labels with the flags that each sets."""
    source = f"{source} {name}"
    if not isinstance(values, list | dict) or not values:
        raise InputError(f"{source}: expected a list of values, or labels with their flags, found {values!r}")
    if isinstance(values, dict):
        pairs = [(str(label), _flags(_mapping(flags, f"{source}: {label}"), source)) for label, flags in values.items()]
    else:
        pairs = [(flags[name], flags) for flags in (_flags({name: value}, source) for value in values)]
    twice = [label for label, _ in pairs if [other for other, _ in pairs].count(label) > 1]
    if twice:
        raise InputError(f"{source}: expected different values, found {twice[0]} twice")
    return dict(pairs)


def _flags(values: Mapping[Any, Any], source: str) -> Flags:
    """Flags as on a command line; raises InputError for a name that `svi_train.py` does not have."""
    names = [str(name).replace("-", "_") for name in values]
    _require_known(names, [name for name in _FIELDS if name != "seed"], source)
    return {name: _text(name, value, source) for name, value in zip(names, values.values(), strict=True)}


def _text(name: str, value: Any, source: str) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, list | dict) or not text:
        raise InputError(f"{source}: expected one value for {name}, found {value!r}")
    if isinstance(_FIELDS[name], bool) and text not in ("true", "false"):
        raise InputError(f"{source}: expected true or false for {name}, found {text}")
    return text


def _seeds(value: Any, source: str) -> tuple[int, ...]:
    seeds = list(range(value)) if _is_count(value) else value
    if not isinstance(seeds, list) or not seeds or not all(_is_count(seed) for seed in seeds):
        raise InputError(f"{source}: expected a number of at least 1, or a list of seeds, found {value!r}")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{source}: expected different seeds, found {value!r}")
    return tuple(seeds)


def _score(values: Mapping[Any, Any], source: str) -> dict[str, int]:
    _require_known(values, list(_SCORE), source)
    for name, value in values.items():
        if not _is_count(value) or value < _SMALLEST_SCORE[name]:
            raise InputError(f"{source}: expected {name} of at least {_SMALLEST_SCORE[name]}, found {value!r}")
    return dict(values)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _pair(text: str, flag: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(f"{flag}: expected {form}, found {text!r}")
    return name.strip().replace("-", "_"), value.strip()


def _mapping(value: Any, source: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{source}: expected a mapping, found {value!r}")
    return value


def _require_known(names: Any, known: Sequence[str], source: str) -> None:
    """Raise InputError, with the nearest known name, for an unknown name."""
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            expected = f"another name (did you mean {near[0]}?)" if near else f"names among {', '.join(known)}"
            raise InputError(f"{source}: expected {expected}, found {name}")
