"""The fields of a configuration as command-line flags; parsing returns only those that are given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import make_dataclass
from typing import Annotated, Any, TypedDict

import tyro
from pydantic.fields import FieldInfo

from inference import Config
from inference.runs.presets import PRESETS, read_yaml
from kpp_pyro.config_part import ConfigPart, flag, names_of

# Fields shown first in --help, with the script's own flags such as --resume.
FIRST = ("dataset", "data_dir", "write", "preset", "steps", "seed", "device")
_ORDER = ("dataset", "data_dir", "out", "write", "preset", "steps", "seed", "device", "resume")
Flags = dict[str, Any]  # by the name of a field


def parse_flags(description: str, script_flags: Flags, argv: Sequence[str] | None = None) -> Flags:
    """Parse a command line with a flag for each field of `Config`, and the script's own flags.

    Args:
        description: of the script.
        script_flags: type of each flag that is no field, with its help as `tyro.conf.arg`; shown with `FIRST`.
        argv: the arguments; None: those of the program.

    Returns:
        The given flags, by name.
    """
    main = _flags_of(FIRST) | script_flags
    order = [*(name for name in _ORDER if name in main), *(name for name in main if name not in _ORDER)]
    groups = {"main": _group("main", "Flags that most runs need.", {name: main[name] for name in order})}
    for name, (about, fields) in _parts().items():
        groups[name] = _group(name, about, _flags_of(set(fields) - set(FIRST)))
    command = make_dataclass("Command", [(name, group) for name, group in groups.items()])
    command.__doc__ = description
    given = tyro.cli(Annotated[command, tyro.conf.OmitArgPrefixes], args=argv, description=description)  # type: ignore
    return {name: value for group in groups for name, value in getattr(given, group).items()}


def _group(name: str, description: str, flags: Flags) -> Any:
    """A group of flags, which `--help` shows together."""
    group = TypedDict(name, flags, total=False)  # type: ignore[misc]
    group.__doc__ = description.split("\n")[0]
    return group


def _parts() -> dict[str, tuple[str, dict[str, FieldInfo]]]:
    """Description and fields of each part of the configuration; last, the fields of no part."""
    parts: dict[str, tuple[str, dict[str, FieldInfo]]] = {}
    own = {}
    for name, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, ConfigPart):
            parts[name] = kind.__doc__ or "", dict(kind.model_fields)
        else:
            own[name] = field
    return {**parts, "others": ("Flags of the whole run.", own)}


def _flags_of(names: Iterable[str]) -> Flags:
    """Flags of the fields of these names."""
    chosen = set(names)
    fields = {name: field for _, part in _parts().values() for name, field in part.items()}
    return {name: _flag(name, field) for name, field in fields.items() if name in chosen}


def _flag(name: str, field: FieldInfo) -> Any:
    choices = names_of(field)
    about = tyro.conf.arg(
        help=" ".join((field.description or "").split()),
        help_behavior_hint=f"(default: {_default(name)})",
        metavar="{" + ",".join(choices) + "}" if choices else None,
    )
    return Annotated[field.annotation, about]  # type: ignore[valid-type]


def _default(name: str) -> str:
    """The default of a field, and the values that presets set, with the names of the presets."""
    by_value: dict[str, list[str]] = {}
    for path in sorted(PRESETS.glob("*/*.yaml")):
        if name in (content := read_yaml(path)):
            selector = flag(path.parent.name) if path.stem == "any" else path.stem
            by_value.setdefault(str(content[name]), []).append(selector)
    presets = [f"{value} with {', '.join(names)}" for value, names in by_value.items()]
    return "; ".join([str(Config.defaults()[name]), *presets])
