"""Base class of the parts of a configuration: pydantic models whose errors are one-sentence `InputError`s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from numbers import Integral, Number
from pathlib import PurePath
from typing import Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from kpp_pyro.errors import InputError
from kpp_pyro.schema import expectation, shown


class ConfigPart(BaseModel):
    """A part of a configuration: an immutable pydantic model that refuses unknown fields.

    Raises:
        InputError: an unknown field, or a value outside its field's type or range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise as_input_error(error, type(self)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise InputError(f"{name}: expected config.replace({name}=...), which makes another one, found an assignment")

    def __delattr__(self, name: str) -> None:
        raise InputError(f"{name}: expected every field of a configuration to stay, found a deletion")

    @classmethod
    def parts(cls) -> dict[str, type[ConfigPart]]:
        """The fields that are parts themselves, by name."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, ConfigPart)}

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse True and False for fields of another type: Python counts them as 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError(f"expected a value other than true or false, found {value}")
        return value


def name_in(registry: Mapping[str, Any]) -> AfterValidator:
    """A validator: the value is a key of `registry`, also one that is registered later."""

    def check(name: str) -> str:
        require_name(name, registry)
        return name

    check.registry = registry  # type: ignore[attr-defined]
    return AfterValidator(check)


def names_of(field: FieldInfo) -> list[str]:
    """Names in the registry of a field that is checked by `name_in`; an empty list for other fields."""
    checks = [item.func for item in field.metadata if isinstance(item, AfterValidator)]
    return [name for check in checks for name in getattr(check, "registry", ())]


def require_name(name: str, known: Iterable[str]) -> None:
    """Raise ValueError, which suggests the most similar name, unless `name` is one of `known`."""
    names = list(known)
    if name not in names:
        raise ValueError(f"expected one of {', '.join(names)}, found {name!r:.100}{did_you_mean(name, names)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The suggestion " (did you mean NAME?)" with the most similar known name; empty if none is similar."""
    names, name = list(known), str(name)
    begun = [other for other in names if name.strip("-") and other.startswith(name)]
    similar = begun or get_close_matches(name, names, n=1)
    return f" (did you mean {similar[0]}?)" if similar else ""


def require_value(name: str, value: Any, kind: Any, strict: bool = True) -> Any:
    """The value as an instance of a type such as `Count`.

    Args:
        name: of the value, in messages.
        value: to check.
        kind: the type.
        strict: whether a text that could be converted is refused.

    Raises:
        InputError: a value of another type or range.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
    try:
        return _adapter(kind).validate_python(number, strict=strict)
    except ValidationError as error:
        found = _described(number) if strict else shown(number)
        raise InputError(f"{name}: expected {expectation(error.errors()[0])}, found {found}") from None


@lru_cache(maxsize=1000)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Pydantic's checks of a type: to make them takes a third of a millisecond."""
    return TypeAdapter(kind)


def _described(value: Any) -> str:
    """A plain value as Python writes it, in at most 100 characters; other objects by their type."""
    plain = value is None or isinstance(value, str | bytes | Number | PurePath | tuple)
    return f"{value!r:.100}" if plain else f"a {type(value).__name__}"


def flag(name: str) -> str:
    """Command-line flag of a field: `--` and the field's name with hyphens."""
    return f"--{name.replace('_', '-')}"


def as_input_error(error: ValidationError, part: type[BaseModel]) -> InputError:
    """The first of pydantic's errors as an `InputError`: one sentence that names the field's flag."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    name = str(next((place for place in reversed(first["loc"]) if isinstance(place, str)), part.__name__))
    if first["type"] == "extra_forbidden":
        known = list(part.model_fields)
        hint = did_you_mean(name, known)
        return InputError(f"{flag(name)}: expected one of {', '.join(known)}, found {name!r}{hint}")
    if cause is not None:
        return InputError(f"{flag(name)}: {cause}")
    return InputError(f"{flag(name)}: {_sentence(first)}")


def _sentence(error: Any) -> str:
    """What was expected and what was found, from one of pydantic's errors."""
    return f"expected {expectation(error)}, found {shown(error['input'])}"
