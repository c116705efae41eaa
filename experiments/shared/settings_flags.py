"""The fields of a configuration as command-line flags; parsing returns only those that are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import make_dataclass
from typing import Annotated, Any, TypedDict

import tyro
from pydantic.fields import FieldInfo

from experiments.shared.command_line import parse_given, print_help
from inference.runs.config import Config
from inference.runs.plugins import load_installed
from inference.runs.presets import PRESETS, preset_of_choice
from inference.runs.registries import REGISTRIES
from kpp_pyro.config_part import flag, names_of

# Shown first in --help: fields, and flags of the script's own such as --resume.
_FIRST = ("dataset", "data_dir", "out", "write", "preset", "steps", "seed", "device", "resume")
Flags = dict[str, Any]  # by the name of a field
Parts = dict[str, tuple[str, dict[str, FieldInfo]]]  # description and fields, by the name of a part


def parse_flags(description: str, script_flags: Flags, argv: Sequence[str] | None = None) -> Flags:
    """Parse a command line with a flag for each field of `Config`, and the script's own flags.

    Args:
        description: of the script.
        script_flags: type of each flag that is no field, with its help as `tyro.conf.arg`; shown first.
        argv: the arguments; None: those of the program.

    Returns:
        The given flags, by name.

    Raises:
        InputError: an unknown or repeated flag, or a value that a flag cannot hold.
    """
    load_installed()
    parts = _parts()
    types = {name: _type(field) for _, part in parts.values() for name, field in part.items()} | script_flags

    def show_help() -> None:
        marks = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)  # no comments: it has no source to read
        command = Annotated[_command(parts, script_flags), *marks]  # type: ignore[valid-type]
        print_help(command, description=description)

    return parse_given(types, show_help, argv)


def _type(field: FieldInfo) -> Any:
    """The type of a field's flag, with the field's checks."""
    return Annotated[field.annotation, field]  # type: ignore[valid-type]


def _command(parts: Parts, script_flags: Flags) -> Any:
    """What `--help` describes: a dataclass with a field for each group of flags."""
    presets = _values_of_presets()
    flags = {
        name: _described(name, field, presets.get(name, {}))
        for _, part in parts.values()
        for name, field in part.items()
    }
    known = flags | script_flags
    main = {name: known[name] for name in _FIRST if name in known} | script_flags
    groups = {"main": _group("main", "Flags that most runs need.", main)}
    for name, (about, fields) in parts.items():
        groups[name] = _group(name, about, {field: flags[field] for field in fields if field not in main})
    return make_dataclass("Command", groups.items())


def _group(name: str, description: str, flags: Flags) -> Any:
    """A group of flags, which `--help` shows together."""
    group = TypedDict(name, flags, total=False)  # type: ignore[misc]
    group.__doc__ = description.split("\n")[0]
    return group


def _parts() -> Parts:
    """Description and fields of each part of the configuration; last, the fields of no part."""
    parts = {name: (part.__doc__ or "", dict(part.model_fields)) for name, part in Config.parts().items()}
    own = {name: field for name, field in Config.model_fields.items() if name not in parts}
    return {**parts, "others": ("Flags of the whole run.", own)}


def _described(name: str, field: FieldInfo, presets: dict[str, list[str]]) -> Any:
    """The type of a field's flag with its help; `presets` are the names of presets by the value that they set."""
    values = [f"{value} with {', '.join(names)}" for value, names in presets.items()]
    default = "; ".join([str(field.get_default(call_default_factory=True)), *values])
    choices = names_of(field)
    about = tyro.conf.arg(
        help=" ".join((field.description or "").split()),
        help_behavior_hint=f"(default: {default})",
        metavar="{" + ",".join(choices) + "}" if choices else None,
    )
    return Annotated[field.annotation, about]  # type: ignore[valid-type]


def _values_of_presets() -> dict[str, dict[str, list[str]]]:
    """The presets that set a field, by the field and the value."""
    found: dict[str, dict[str, list[str]]] = {}
    for folder in sorted(PRESETS.iterdir()):
        choices = sorted(REGISTRIES[folder.name].parts) if folder.name in REGISTRIES else ["any"]
        for choice in choices:
            selector = flag(folder.name) if choice == "any" else choice
            for name, value in preset_of_choice(folder.name, choice).items():
                found.setdefault(name, {}).setdefault(str(value), []).append(selector)
    return found
