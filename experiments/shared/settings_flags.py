"""The fields of a configuration as flags of a command line: of those that are not given, nothing is said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import make_dataclass
from typing import Annotated, Any, TypedDict

import tyro
from pydantic.fields import FieldInfo

from inference import Config
from inference.runs.presets import PRESETS, read_yaml
from kpp_pyro.config_part import ConfigPart, names_of

# What most users need first; `resume` and what else is no field is added by the script.
FIRST = ("dataset", "data_dir", "write", "preset", "steps", "seed", "device")
_ORDER = ("dataset", "data_dir", "out", "write", "preset", "steps", "seed", "device", "resume")
Flags = dict[str, Any]  # by the name of a field


def parse_flags(description: str, first: Flags, argv: Sequence[str] | None = None) -> Flags:
    """Parse a command line with a flag for each field of `Config`, and some of the script's own.

    Args:
        description: of the script.
        first: type of each flag that is no field, with its help as `tyro.conf.arg`; shown beside those of `FIRST`.
        argv: the arguments; those of the program if None.

    Returns:
        What is given, by name.
    """
    own = _of_fields(FIRST) | first
    order = [*(name for name in _ORDER if name in own), *(name for name in own if name not in _ORDER)]
    groups = {"main": _group("main", "What most runs need.", {name: own[name] for name in order})}
    for name, (about, fields) in _parts().items():
        groups[name] = _group(name, about, _of_fields(set(fields) - set(FIRST)))
    command = make_dataclass("Command", [(name, group) for name, group in groups.items()])
    command.__doc__ = description
    found = tyro.cli(Annotated[command, tyro.conf.OmitArgPrefixes], args=argv, description=description)  # type: ignore
    return {name: value for group in groups for name, value in getattr(found, group).items()}


def _group(name: str, description: str, flags: Flags) -> Any:
    """Flags that `--help` shows together."""
    group = TypedDict(name, flags, total=False)  # type: ignore[misc]
    group.__doc__ = description.split("\n")[0]
    return group


def _parts() -> dict[str, tuple[str, dict[str, FieldInfo]]]:
    """What each part of the configuration is about, and its fields; last, those of no part."""
    parts: dict[str, tuple[str, dict[str, FieldInfo]]] = {}
    own = {}
    for name, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, ConfigPart):
            parts[name] = kind.__doc__ or "", dict(kind.model_fields)
        else:
            own[name] = field
    return {**parts, "others": ("Everything else.", own)}


def _of_fields(names: Iterable[str]) -> Flags:
    """A flag for each of some fields."""
    wanted = set(names)
    fields = {name: field for _, part in _parts().values() for name, field in part.items()}
    return {name: _flag(name, field) for name, field in fields.items() if name in wanted}


def _flag(name: str, field: FieldInfo) -> Any:
    choices = names_of(field)
    about = tyro.conf.arg(
        help=" ".join((field.description or "").split()),
        help_behavior_hint=f"(default: {_default(name)})",
        metavar="{" + ",".join(choices) + "}" if choices else None,
    )
    return Annotated[field.annotation, about]  # type: ignore[valid-type]


def _default(name: str) -> str:
    """The default of a field, and the values that presets set, with what they are the presets of."""
    by_value: dict[str, list[str]] = {}
    for path in sorted(PRESETS.glob("*/*.yaml")):
        if name in (content := read_yaml(path)):
            by_value.setdefault(str(content[name]), []).append(path.stem)
    presets = [f"{value} with {', '.join(names)}" for value, names in by_value.items()]
    return "; ".join([str(Config.defaults()[name]), *presets])
