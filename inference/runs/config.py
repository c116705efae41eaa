"""The configuration of a run, from Python, from presets, or from a file.

Config()                                            every default: trains on the digits
Config.preset("mnist", write="feed_forward")        defaults < presets < given fields
Config.read("runs/mnist/config.json", steps=100)    the configuration of a run, with one field changed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from inference.runs.config_parts import DataConfig, TrainingConfig
from inference.runs.plugins import load_installed, load_recorded
from inference.runs.presets import preset_of, read_yaml
from inference.runs.rules import has_blocks, require_consistent, require_data_read
from kpp_pyro.config_part import ConfigPart, did_you_mean, flag
from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import as_path
from kpp_pyro.files.run_folder import RunFolder, read_config, read_plugins
from models.config import PairConfig, ProgramConfig

_OTHER_SPELLINGS = {"data": "data_dir"}  # of flags, that are no names of fields
_REMOVED: dict[str, dict[str, float]] = {"memory": {"semantic_reads": 0.0}, "training": {"left_out": 0}}
"""Fields of earlier runs that have been removed, part by part, with the value that switched each off."""


class Config(PairConfig):
    """The configuration of a run; `Config()` trains on the digits.

    Raises:
        InputError: a value that a field cannot hold, or parts that cannot be combined.
    """

    data: DataConfig = Field(default_factory=DataConfig)  # a factory, since `workers` depends on the machine
    training: TrainingConfig = TrainingConfig()
    device: str = "auto"
    """Device to train on: auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""

    def __init__(self, **values: Any) -> None:
        load_installed()  # a value may be the name of a part of theirs
        places = _places(type(self))
        field = next((name for name in values if name not in type(self).model_fields and name in places), None)
        if field is not None:
            found = f"the field {field} of {places[field]}; Config.preset({field}=...) takes fields"
            raise InputError(f"Config: expected parts, found {found}")
        super().__init__(**values)

    @model_validator(mode="after")
    def _check_across_parts(self) -> Config:
        require_consistent(self)
        return self

    @classmethod
    def preset(cls, dataset: str | None = None, /, **given: Any) -> Self:
        """A configuration of presets: defaults < presets < given fields.

        The preset of a chosen name, such as a data set or a write, is the file
        `experiments/configs/presets/FIELD/NAME.yaml` if it exists. The layout of a memory is that of
        the write's preset, then that of the data set's.

        Args:
            dataset: name of the data set; None: the digits.
            given: fields of any part, by name: `write="feed_forward"`, `steps=100`.

        Raises:
            InputError: an unknown field, a value that it cannot hold, or parts that cannot be combined.
        """
        given = {**({} if dataset is None else {"dataset": dataset}), **given}
        config = cls._of_presets(given)
        require_data_read(config, given)
        return config

    @classmethod
    def _of_presets(cls, given: dict[str, Any]) -> Self:
        return cls.from_flat({**preset_of({**cls.defaults(), **given}), **given})

    @classmethod
    def read(cls, path: Path | str, /, **given: Any) -> Self:
        """Read the configuration of a run, or a YAML file of fields by name (see `preset`), and change fields.

        A given name changes what its preset sets, see `replace`.

        Raises:
            InputError: no such file, a file with other content, or an invalid field.
        """
        path = as_path(path, "a configuration")
        if path.is_dir():
            path = RunFolder(path).config
        if path.suffix.lower() in (".yaml", ".yml"):
            found = read_yaml(path)
            fields = {name.replace("-", "_"): value for name, value in found.items()}
            if len(fields) < len(found):
                raise InputError(f"{path}: expected each field once, found one with - and with _")
            with naming(path):
                config = cls._of_presets({**fields, **given})
            require_data_read(config, given)  # the file of another run names every field
            return config
        if path.exists() and path.suffix.lower() != ".json":
            raise InputError(f"{path}: expected a name that ends in .json, .yaml or .yml, found another")
        config = cls.of_run(path).replace(**given)
        require_data_read(config, given)
        return config

    @classmethod
    def of_run(cls, path: Path) -> Self:
        """The configuration in a run's config.json; the plug-ins that it names are loaded first.

        Raises:
            InputError: no such file, another file, an invalid field, the use of an option that has been removed, or a
                plug-in that cannot be loaded.
        """
        content = _without_removed(read_config(path), path)
        load_recorded(path, read_plugins(path), content)
        return cls.from_json(content, path)

    @classmethod
    def from_json(cls, content: Any, source: Path | str) -> Self:
        """The configuration whose `to_json` is `content`.

        Args:
            content: parts and fields.
            source: file that error messages name.

        Raises:
            InputError: content that is not a configuration of this version.
        """
        if not isinstance(content, dict):
            raise InputError(f"{source}: expected a configuration, found {content!r}")
        with naming(source):
            return cls(**content)

    @property
    def name(self) -> str:
        """A short name for titles and folders: the write of Kanerva++, the name of any other model, or both."""
        usual = self.program.model == ProgramConfig.model_fields["model"].default
        names = ([] if usual else [self.program.model]) + ([self.memory.write] if has_blocks(self) else [])
        return "-".join(names)

    def to_json(self) -> dict[str, Any]:
        """Every field, part by part, as JSON data."""
        return self.model_dump(mode="json")

    @classmethod
    def from_flat(cls, values: dict[str, Any]) -> Self:
        """A configuration of fields by name, without their parts; the other fields have their defaults.

        Raises:
            InputError: an unknown field, a value that it cannot hold, or parts that cannot be combined.
        """
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise InputError(f"values: expected a mapping of fields by name, found {values!r:.100}")
        places = _places(cls)
        unknown = next((name for name in values if name not in places), None)
        if unknown is not None:
            raise InputError(
                f"{flag(unknown)}: expected a field of the configuration, found none of that name"
                f"{did_you_mean(_OTHER_SPELLINGS.get(unknown, unknown), places)}"
            )
        parts: dict[str, Any] = {}
        for name, value in values.items():
            part = places[name]
            if part is None:
                parts[name] = value
            else:
                parts.setdefault(part, {})[name] = value
        return cls(**parts)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of every field, by name."""
        parts = cls.parts()
        fields = {
            name: (cls if part is None else parts[part]).model_fields[name] for name, part in _places(cls).items()
        }
        return {name: field.get_default(call_default_factory=True) for name, field in fields.items()}

    def flat(self) -> dict[str, Any]:
        """Every field by name, without its part."""
        return {
            name: getattr(self if part is None else getattr(self, part), name)
            for name, part in _places(type(self)).items()
        }

    def replace(self, **values: Any) -> Self:
        """The same configuration with other values of some fields, by name.

        What a preset sets changes with the name that selects the preset: `replace(write="feed_forward")` also sets the
        layout of that write, and `replace(preset="small")` width and depth. Fields among `values` stay, and
        fields with other values than those of the presets before.

        Raises:
            InputError: an unknown field, a value that it cannot hold, or parts that cannot be combined.
        """
        fields, defaults = self.flat(), self.defaults()
        standard, moved = {**defaults, **preset_of(fields)}, dict[str, Any]()
        for _ in range(2):  # a preset may choose an objective, which has a preset too
            other = {**defaults, **preset_of({**fields, **moved, **values})}
            moved = {name: other[name] for name, value in fields.items() if value == standard[name] != other[name]}
        changed = {**moved, **values}
        if any(changed.get(name, fields[name]) != fields[name] for name in ("networks", "preset")):
            del fields["width"], fields["depth"]  # the new networks set both again
        return type(self).from_flat({**fields, **changed})


@contextmanager
def naming(source: Path | str) -> Iterator[None]:
    """Prefix the message of an InputError that is raised inside with its source: a file or flags."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{source}: {error}") from error


def _without_removed(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration of a run, part by part, without the fields that have been removed since.

    Raises:
        InputError: the run has used one of them.
    """
    kept = dict(content)
    for part, removed in _REMOVED.items():
        values = content.get(part)
        if not isinstance(values, dict):
            continue
        for name, off in removed.items():
            if values.get(name, off) != off:
                what = f"a run without {flag(name)}, which has been removed"
                raise InputError(f"{path}: expected {what}, found {values[name]!r:.100}; train it again")
        kept[part] = {name: value for name, value in values.items() if name not in removed}
    return kept


def _places(cls: type[ConfigPart]) -> dict[str, str | None]:
    """The part of each field, by the field's name; None for a field of the configuration itself."""
    parts, places = cls.parts(), dict[str, str | None]()
    for name in cls.model_fields:
        places |= dict.fromkeys(parts[name].model_fields, name) if name in parts else {name: None}
    return places
