"""The configuration of a run: complete in Python, from presets, from a file, and as the run folder keeps it.

Config()                                         the digits, with every default
Config.preset("mnist", write="feed_forward")     defaults < presets < what is given
Config.read("runs/mnist/config.json", steps=100) what a run was trained with, and a change
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from inference.runs.config_parts import DataConfig, TrainingConfig
from inference.runs.presets import preset_of, read_yaml
from inference.runs.rules import require_consistent
from kpp_pyro.config_part import ConfigPart, did_you_mean, flag
from kpp_pyro.errors import InputError
from models.config import PairConfig


class Config(PairConfig):
    """The configuration of a run; `Config()` trains on the digits.

    Raises:
        InputError: a value that a field cannot hold, or parts that do not go together.
    """

    data: DataConfig = Field(default_factory=DataConfig)  # of the cores there are then
    training: TrainingConfig = TrainingConfig()
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""

    @model_validator(mode="after")
    def _check_across_parts(self) -> Config:
        require_consistent(self)
        return self

    @classmethod
    def preset(cls, dataset: str | None = None, /, **given: Any) -> Self:
        """The defaults, the presets of the parts that are chosen over them, and what is given over these.

        Presets are the files `experiments/configs/presets/FIELD/NAME.yaml`: of the data set, the model, the write and
        the objective that are chosen. No two of them set the same field.

        Args:
            dataset: name of the data set; the digits if None.
            given: fields of any part by their names, as on the command line: `write="feed_forward"`, `steps=100`.

        Raises:
            InputError: a field that there is not, a value that it cannot hold, or parts that do not go together.
        """
        given = {**({} if dataset is None else {"dataset": dataset}), **given}
        return cls.from_flat({**preset_of({**cls.defaults(), **given}), **given})

    @classmethod
    def read(cls, path: Path | str, /, **given: Any) -> Self:
        """Read the config.json of a run, or a YAML file of fields by their names, and change what is given.

        Raises:
            InputError: no such file, or one of another kind.
        """
        path = Path(path)
        if path.suffix in (".yaml", ".yml"):
            fields = read_yaml(path)
            with naming(path):
                return cls.preset(**{**fields, **given})
        try:
            content = json.loads(path.read_text())["config"]
        except OSError as error:
            raise InputError(f"{path}: expected a configuration, found none ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: expected the config.json of a run, found another file ({error!r})") from error
        return cls.from_json(content, path).replace(**given)

    @classmethod
    def from_json(cls, content: Any, source: Path | str) -> Self:
        """The configuration that `to_json` made.

        Raises:
            InputError: of this source, that it is not one of this version.
        """
        if not isinstance(content, dict):
            raise InputError(f"{source}: expected a configuration, found {content!r}")
        with naming(source):
            return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """Every field, part by part, as plain data."""
        return self.model_dump(mode="json")

    @classmethod
    def from_flat(cls, values: dict[str, Any]) -> Self:
        """A configuration of fields by their names, whichever part has them; the others have their defaults."""
        places = _places(cls)
        unknown = next((name for name in values if name not in places), None)
        if unknown is not None:
            raise InputError(
                f"{flag(unknown)}: expected a field of the configuration, found none of that name"
                f"{did_you_mean(unknown, places)}"
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
        """The default of every field by its name."""
        parts = {
            name: cls if part is None else cls.model_fields[part].annotation for name, part in _places(cls).items()
        }
        return {
            name: part.model_fields[name].get_default(call_default_factory=True)  # type: ignore[union-attr]
            for name, part in parts.items()
        }

    def flat(self) -> dict[str, Any]:
        """Every field by its name, whichever part has it."""
        return {
            name: getattr(self if part is None else getattr(self, part), name)
            for name, part in _places(type(self)).items()
        }

    def replace(self, **values: Any) -> Self:
        """The same configuration with other values of some fields, by their names; no preset is applied."""
        fields = self.flat()
        if "width" not in values and {"networks", "preset"} & values.keys():  # of the family's preset again
            del fields["width"], fields["depth"]
        return type(self).from_flat({**fields, **values})


class naming:  # noqa: N801, a context manager in the manner of contextlib's
    """Puts a file's name before the sentence of an InputError that is raised inside."""

    def __init__(self, source: Path | str) -> None:
        self.source = source

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Name the file."""
        if isinstance(error, InputError):
            raise InputError(f"{self.source}: {error}") from error


def _places(cls: type[ConfigPart]) -> dict[str, str | None]:
    """The part that has each field, by the field's name; None of a field of the configuration itself."""
    places: dict[str, str | None] = {}
    for name, field in cls.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, ConfigPart):
            places |= dict.fromkeys(kind.model_fields, name)
        else:
            places[name] = None
    return places
