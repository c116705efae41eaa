"""Parts of a configuration: plain data that checks itself, and says what is wrong in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from kpp_pyro.errors import InputError

Count = Annotated[int, Field(ge=1, lt=2**63)]
Natural = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ConfigPart(BaseModel):
    """A part of a configuration: frozen, of known fields, each of its own type and range.

    Raises:
        InputError: a field that the part does not have, or a value that its field cannot hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise as_input_error(error, type(self)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _require_no_truth(cls, value: Any, about: ValidationInfo) -> Any:
        """True is no number, though Python has it for 1."""
        if isinstance(value, bool) and cls.model_fields[about.field_name or ""].annotation is not bool:
            raise ValueError(f"expected a value of another kind, found {value}")
        return value

    def replace(self, **values: Any) -> Self:
        """The same part with other values of some fields, checked anew."""
        return type(self)(**{**dict(self), **values})


def name_in(registry: Mapping[str, Any]) -> AfterValidator:
    """A check that a text is a name in a registry, whenever it was registered."""

    def check(name: str) -> str:
        require_name(name, registry)
        return name

    check.registry = registry  # type: ignore[attr-defined]
    return AfterValidator(check)


def names_of(field: FieldInfo) -> list[str]:
    """The names that a field may hold, if they are those of a registry."""
    checks = [item.func for item in field.metadata if isinstance(item, AfterValidator)]
    return [name for check in checks for name in getattr(check, "registry", ())]


def require_name(name: str, known: Iterable[str]) -> None:
    """Raise ValueError, with the nearest name that is known, unless a name is."""
    names = list(known)
    if name not in names:
        raise ValueError(f"expected one of {', '.join(names)}, found {name!r}{did_you_mean(name, names)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of some names as a question, if one is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def flag(name: str) -> str:
    """How a field is called on the command line."""
    return f"--{name.replace('_', '-')}"


def as_input_error(error: ValidationError, part: type[BaseModel]) -> InputError:
    """The first thing that a validation found wrong, in one sentence that names the field."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    name = str(next((place for place in reversed(first["loc"]) if isinstance(place, str)), part.__name__))
    if first["type"] == "extra_forbidden":
        known = list(part.model_fields)
        near = did_you_mean(name, known)
        return InputError(f"{flag(name)}: expected one of {', '.join(known)}, found {name!r}{near}")
    if cause is not None:
        return InputError(f"{flag(name)}: {cause}")
    return InputError(f"{flag(name)}: expected {_expectation(first)}, found {_shown(first['input'])}")


def _expectation(error: Any) -> str:
    """What was expected, in words, of what pydantic found wrong."""
    bounds, kind = error.get("ctx", {}), error["type"]
    named = {
        "greater_than_equal": "at least {ge}",
        "greater_than": "more than {gt}",
        "less_than_equal": "at most {le}",
        "less_than": "less than {lt}",
        "literal_error": "one of {expected}",
        "finite_number": "a finite number",
        "missing": "a value",
        "path_type": "a path",
        "string_type": "a text",
    }
    if kind in named:
        return named[kind].format(**bounds).replace("'", "")
    families = {"int": "a whole number", "float": "a number", "bool": "true or false", "model": "a mapping"}
    for prefix, what in families.items():
        if kind.startswith(prefix):
            return what
    return str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")


def _shown(value: Any) -> str:
    text = (
        repr(value) if isinstance(value, str) and not value.replace(".", "").replace("-", "").isalnum() else str(value)
    )
    return text if len(text) <= 100 else f"{text[:97]}..."
