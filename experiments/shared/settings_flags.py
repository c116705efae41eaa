"""The fields of a configuration as flags of a command line: of those that are not given, nothing is said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import make_dataclass
from typing import Annotated, Any, TypedDict

import tyro

from inference import Config
from inference.runs.presets import PRESETS, read_yaml
from kpp_pyro.config_part import ConfigPart

# What most users need first; `resume` and what else is no field is added by the script.
FIRST = ("dataset", "data_dir", "write", "preset", "steps", "seed", "device")
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
    groups = {"main": _group("main", "What most runs need.", {**_of_fields(FIRST), **first})}
    for part, fields in _parts().items():
        groups[part.__name__] = _group(part.__name__, part.__doc__ or "", _of_fields(set(fields) - set(FIRST)))
    command = make_dataclass("Command", [(name, group) for name, group in groups.items()])
    command.__doc__ = description
    found = tyro.cli(Annotated[command, tyro.conf.OmitArgPrefixes], args=argv, description=description)  # type: ignore
    return {name: value for group in groups for name, value in getattr(found, group).items()}


def _group(name: str, description: str, flags: Flags) -> Any:
    """Flags that `--help` shows together."""
    group = TypedDict(name, flags, total=False)  # type: ignore[misc]
    group.__doc__ = description.split("\n")[0]
    return group


def _parts() -> dict[type[ConfigPart], list[str]]:
    """Fields of every part, and of the configuration itself."""
    parts: dict[type[ConfigPart], list[str]] = {}
    own = []
    for name, field in Config.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, ConfigPart):
            parts[kind] = list(kind.model_fields)
        else:
            own.append(name)
    return {**parts, Config: own}


def _of_fields(names: Iterable[str]) -> Flags:
    """A flag for each of some fields, in the order of the configuration."""
    wanted, flags = set(names), {}
    for part, fields in _parts().items():
        for name in fields:
            if name in wanted:
                field = part.model_fields[name]
                hint = f"(default: {_default(name)})"
                flags[name] = Annotated[
                    field.annotation, tyro.conf.arg(help=field.description, help_behavior_hint=hint)  # type: ignore
                ]
    return flags


def _default(name: str) -> str:
    """The default of a field, and the values that presets set, with what they are the presets of."""
    by_value: dict[str, list[str]] = {}
    for path in sorted(PRESETS.glob("*/*.yaml")):
        if name in (content := read_yaml(path)):
            by_value.setdefault(str(content[name]), []).append(path.stem)
    presets = [f"{value} with {', '.join(names)}" for value, names in by_value.items()]
    return "; ".join([str(Config().flat()[name]), *presets])
