"""Checks of the arguments of public functions, from their annotations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import InstanceOf

from kpp_pyro.config_part import require_value

Function = TypeVar("Function", bound=Callable[..., Any])
_COLLECTING = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)  # *args and **kwargs
_PLAIN = (str, int, float, bool, NoneType)


def checked(function: Function) -> Function:
    """Check the arguments of a function against its annotations before it runs; a decorator.

    Types are exact, but whole numbers may be of any library. Ranges are those of annotations such as `Particles`. A
    parameter without an annotation, or of a tuple, is not checked.

    Raises:
        InputError: an argument of another type or range; the message names it.
    """
    parameters = signature(function)

    @cache
    def kinds() -> dict[str, Any]:  # at the first call, when all names of the module are known
        hints = get_type_hints(function, include_extras=True)
        return {
            name: _exact(hints[name])
            for name, part in parameters.parameters.items()
            if part.kind not in _COLLECTING and name in hints and get_origin(hints[name]) is not tuple
        }

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(*args, **kwargs).arguments
        for name, kind in kinds().items():
            if name in given:
                require_value(name, given[name], kind)
        return function(*args, **kwargs)

    return cast(Function, call)


def _exact(kind: Any) -> Any:
    """A type for pydantic: objects of a class are neither converted nor looked into."""
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(map(_exact, get_args(kind)))]  # noqa: UP007
    exact: Any = InstanceOf
    return exact[kind] if isinstance(kind, type) and kind not in _PLAIN else kind
