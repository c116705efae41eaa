"""Presets: YAML files with the fields that a data set, a model, a write or an objective sets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kpp_pyro.errors import InputError, reason
from kpp_pyro.files.reading import reading
from kpp_pyro.schema import shown

_MOST_BYTES = 10**6  # of a YAML file
PRESETS = Path(__file__).parents[2] / "experiments" / "configs" / "presets"


def preset_of(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The fields set by presets, the files `PRESETS`/FIELD/NAME.yaml.

    Args:
        chosen: every field by name; NAME is the value of FIELD, or what the part of that name is `like`. The file
            any.yaml is for values without one, but not for None.
    """
    found: dict[str, Any] = {}
    for folder in sorted(PRESETS.iterdir()):
        found |= preset_of_choice(folder.name, chosen[folder.name])
    return found


def preset_of_choice(field: str, value: Any) -> dict[str, Any]:
    """The fields set by the presets of one value of a field: those of the part that it is like, and then its own."""
    from inference.runs.registries import REGISTRIES  # torch, which reading a grid does not need

    if value is None:
        return {}
    part = REGISTRIES[field].parts.get(str(value)) if field in REGISTRIES else None  # a value may be of any type
    own = [name for name in (getattr(part, "like", None), str(value)) if name]
    paths = [PRESETS / field / f"{name}.yaml" for name in dict.fromkeys(own)]
    files = [path for path in paths if path.is_file()] or [*(PRESETS / field).glob("any.yaml")]
    return {name: content for path in files for name, content in read_yaml(path).items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of fields by name.

    Raises:
        InputError: a file that cannot be read, is not YAML, is not a mapping, or has a key twice.
    """
    with reading(path, "a YAML file") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise InputError(f"{path}: expected a YAML file of at most {_MOST_BYTES:,} bytes, found a larger one")
    try:
        content = yaml.load(text, UniqueKeyLoader)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as a date of month 13
        raise InputError(f"{path}: expected YAML, found {reason(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping, found {shown(content)}")
    return {str(name): value for name, value in content.items()}


class UniqueKeyLoader(yaml.SafeLoader):
    """Reads YAML with three differences: a repeated key is an error, on, off, yes and no are texts, not booleans, and
    whole numbers are decimal: 010 and 1:30 are texts.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012, as in PyYAML
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "int")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node.

        Raises:
            InputError: a reference to another node; few references to each other stand for endless content.
        """
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1
            raise InputError(f"expected values, found a reference to another one (*) in line {line}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping.

        Raises:
            InputError: a repeated key.
        """
        for key, count in Counter(str(key.value) for key, _ in node.value).items():
            if count > 1:
                line = node.start_mark.line + 1
                raise InputError(f"expected each key once in the mapping of line {line}, found {key:.99} twice")
        return super().construct_mapping(node, deep)


UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789")
)
UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"
)
