"""Presets: YAML files with the fields that a data set, a model, a write or an objective sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kpp_pyro.errors import InputError, reason

PRESETS = Path(__file__).parents[2] / "experiments" / "configs" / "presets"


def preset_of(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The fields set by presets, the files `PRESETS`/FIELD/NAME.yaml.

    Args:
        chosen: every field by name; NAME is the value of FIELD. The file any.yaml is for values without one, but not
            for None.
    """
    found: dict[str, Any] = {}
    for folder in sorted(PRESETS.iterdir()):
        value = chosen[folder.name]
        paths = [] if value is None else [folder / f"{value}.yaml", folder / "any.yaml"]
        path = next((path for path in paths if path.is_file()), None)
        found |= read_yaml(path) if path else {}
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of fields by name.

    Raises:
        InputError: a file that cannot be read, is not YAML, is not a mapping, or has a key twice.
    """
    try:
        with path.open() as file:
            content = yaml.load(file, UniqueKeyLoader)
    except OSError as error:
        raise InputError(f"{path}: expected a YAML file, found none ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: expected YAML, found {reason(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping, found {content!r}")
    return {str(name): value for name, value in content.items()}


class UniqueKeyLoader(yaml.SafeLoader):
    """Reads YAML with two differences: a repeated key is an error, and on, off, yes and no are texts, not booleans."""

    yaml_implicit_resolvers = {  # noqa: RUF012, as in PyYAML
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping.

        Raises:
            InputError: a repeated key.
        """
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            line = node.start_mark.line + 1
            raise InputError(f"{self.name}: expected each key once in the mapping of line {line}, found {twice} twice")
        return super().construct_mapping(node, deep)


UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"
)
