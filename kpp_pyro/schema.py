"""Schemas of the files that are read: pydantic models, whose errors become one-sentence `InputError`s."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kpp_pyro.errors import InputError, reason

Count = Annotated[int, Field(ge=1, lt=2**63)]
Natural = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=1, le=2**16)]  # of an image, in pixels
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


_TYPES = ("str", "int", "float", "bool", "none")  # pydantic's names of the members of a union


class FileContent(BaseModel):
    """The content of a file, or a part of it: types are exact, numbers finite, and further fields are kept."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="allow", allow_inf_nan=False, arbitrary_types_allowed=True
    )


Schema = TypeVar("Schema", bound=FileContent)


def parse_json(text: bytes, schema: type[Schema], expected: str) -> Schema:
    """Parse JSON; `expected` is the beginning of the error message.

    Raises:
        InputError: no JSON, or another content.
    """
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{expected}, found {found_instead(error)}") from None


def check(content: Any, schema: type[Schema], expected: str) -> Schema:
    """Check content that was read in another way; `expected` is the beginning of the error message.

    Raises:
        InputError: another content.
    """
    try:
        return schema.model_validate(content)
    except (ValidationError, RecursionError) as error:
        found = found_instead(error) if isinstance(error, ValidationError) else reason(error)
        raise InputError(f"{expected}, found {found}") from None


def found_instead(error: ValidationError) -> str:
    """What was found in place of valid content: the first of pydantic's errors, with the place in the file."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"no JSON ({reason(ValueError(first['ctx']['error']))})"
    place = ".".join(str(step) for step in first["loc"] if str(step) not in _TYPES and "[" not in str(step))
    if first["type"] == "missing":
        return f"no {place}"
    return f"{shown(first['input'])} in place of {expectation(first)}{f' for {place}' if place else ''}"


def expectation(error: Any) -> str:
    """What a field accepts, in words, from one of pydantic's errors."""
    bounds, kind = error.get("ctx", {}), error["type"]
    exact = {
        "greater_than_equal": "at least {ge}",
        "greater_than": "more than {gt}",
        "less_than_equal": "at most {le}",
        "less_than": "less than {lt}",
        "literal_error": "one of {expected}",
        "finite_number": "a finite number",
        "missing": "a value",
        "path_type": "a path",
        "string_type": "a text",
        "too_short": "at least {min_length} values",
        "too_long": "at most {max_length} values",
        "is_instance_of": "a {class}",
    }
    if kind in exact:
        return exact[kind].format(**bounds).replace("'", "").replace("a Path", "a path")
    by_prefix = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "model": "a mapping",
        "dict": "a mapping",
        "list": "a list",
        "sequence": "a list",
        "tuple": "a list",
    }
    for prefix, description in by_prefix.items():
        if kind.startswith(prefix):
            return description
    return str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")


def shown(value: Any) -> str:
    """A value as text of at most 100 characters; containers are only named, texts quoted unless they are numbers."""
    if isinstance(value, BaseModel):
        return f"a {type(value).__name__}"
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    plain = not isinstance(value, str) or re.fullmatch(r"[-+]?\d[\d.e+-]*", value, re.ASCII)
    text = str(value) if plain else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
