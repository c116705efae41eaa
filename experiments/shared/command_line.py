"""Command lines: one parser for all scripts, whose errors are one sentence each.

Tyro writes `--help`; pydantic checks the values.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro
from pydantic import ValidationError, create_model

from kpp_pyro.config_part import as_input_error, did_you_mean, flag
from kpp_pyro.errors import InputError

Arguments = TypeVar("Arguments")
Types = Mapping[str, Any]
"""The type of each flag, by name: pydantic's, such as `Annotated[int, Field(ge=1)]`, with tyro's marks."""

_NARROWEST = 60  # columns of a help; with a few, tyro would not end
_FLAG = re.compile(r"-(?!$|\d|\.|inf|nan)", re.IGNORECASE)  # neither - alone nor a negative number


def parse(kind: type[Arguments], argv: Sequence[str] | None = None) -> Arguments:
    """Parse a command line. `--help` prints and ends the program.

    Args:
        kind: dataclass with a field for each flag, see `Types`.
        argv: the arguments; None: those of the program.

    Raises:
        InputError: an unknown, repeated or missing flag, or a value that a flag cannot hold.
    """
    types = get_type_hints(kind, include_extras=True)
    given = parse_given(types, lambda: print_help(kind), argv)
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{_shown(field.name, types)}: expected a value, found none")
    return kind(**given)


def parse_given(types: Types, show_help: Callable[[], object], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The values of the given flags, by name.

    Args:
        types: of all flags.
        show_help: called for `--help`; ends the program.
        argv: the arguments; None: those of the program.

    Raises:
        InputError: see `parse`.
    """
    tokens = sys.argv[1:] if argv is None else argv
    if "-h" in tokens or "--help" in tokens:
        show_help()
    texts = _texts_by_name(types, tokens)
    values = {name: _value(types[name], found) for name, found in texts.items()}
    given = create_model("Given", **{name: (types[name], ...) for name in values})  # type: ignore[call-overload]
    try:
        return dict(given(**values))
    except ValidationError as error:
        raise as_input_error(error, given) from None


def print_help(kind: Any, **options: Any) -> None:
    """Print what tyro, with its options, says of a dataclass, and end the program."""
    if shutil.get_terminal_size().columns < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST)
    tyro.cli(kind, prog=shlex.quote(sys.argv[0]), args=["--help"], **options)


def script_name() -> str:
    """File name of the script that runs."""
    return Path(sys.argv[0]).name


def _texts_by_name(types: Types, tokens: Sequence[str]) -> dict[str, list[str]]:
    """The texts of each given flag and of the positional argument."""
    found: dict[str, list[str]] = {}
    free: list[str] = []
    for token, texts in _groups(tokens):
        if token is None:
            free += texts
            continue
        name, own, rest = _split(types, token, texts)
        if name in found and not _has(types[name], tyro.conf.UseAppendAction):
            raise InputError(f"{flag(name)}: expected the flag once, found it twice")
        found[name] = [*found.get(name, []), *own]
        free += rest
    return {**found, **_positional(types, free)}


def _groups(tokens: Sequence[str]) -> Iterator[tuple[str | None, list[str]]]:
    """Each flag with the texts that follow it; None with texts that follow none."""
    token, texts = None, list[str]()
    for number, text in enumerate(tokens):
        if not _FLAG.match(text):
            texts.append(text)
            continue
        yield token, texts
        token, texts = text, []
        if text == "--":
            yield None, list(tokens[number + 1 :])
            return
    yield token, texts


def _split(types: Types, token: str, texts: list[str]) -> tuple[str, list[str], list[str]]:
    """The name of a flag, its own texts, and the rest of those that follow it.

    Raises:
        InputError: an unknown flag, no value, or a value for a flag without one.
    """
    typed, equals, attached = token.partition("=")
    name, switched = _named(types, typed)
    if switched is not None:
        if equals:
            raise InputError(f"{typed}: expected no value, found {attached!r:.100}")
        return name, [switched], texts
    texts = [attached, *texts] if equals else texts
    own = len(texts) if _is_tuple(types[name]) and not _has(types[name], tyro.conf.UseAppendAction) else 1
    if not texts or "" in texts[:own]:
        raise InputError(f"{flag(name)}: expected a value, found {repr('') if texts else 'none'}")
    return name, texts[:own], texts[own:]


def _named(types: Types, typed: str) -> tuple[str, str | None]:
    """The name of a flag as it was typed; and true or false, if it is a switch."""
    named: dict[str, tuple[str, str | None]] = {}
    for name, kind in types.items():
        if _plain(kind) is bool:
            named |= {flag(name): (name, "true"), flag(f"no_{name}"): (name, "false")}
        elif not _has(kind, tyro.conf.Positional):
            named[flag(name)] = (name, None)
    known = typed.replace("_", "-")
    if known not in named:
        hint = did_you_mean(known, named)
        raise InputError(f"{typed:.100}: expected a flag of {script_name()}, found none of that name{hint}")
    return named[known]


def _positional(types: Types, texts: list[str]) -> dict[str, list[str]]:
    """The texts without a flag, by the name of the positional argument.

    Raises:
        InputError: more than the script takes, or an empty one.
    """
    name = next((name for name, kind in types.items() if _has(kind, tyro.conf.Positional)), None)
    if not texts:
        return {}
    if name is None:
        raise InputError(f"{script_name()}: expected flags alone, found {texts[0]!r:.100} without a flag")
    if "" in texts:
        raise InputError(f"{_shown(name, types)}: expected a value, found ''")
    if len(texts) > 1 and not _is_tuple(types[name]):
        raise InputError(f"{_shown(name, types)}: expected one value, found {len(texts)}, {texts[1]!r:.100} among them")
    return {name: texts}


def _value(kind: Any, texts: list[str]) -> Any:
    """What pydantic checks: the text or texts of a flag; None for "None" where that is a value."""
    if texts == ["None"] and NoneType in get_args(_plain(kind)):
        return None
    return texts if _is_tuple(kind) else texts[0]


def _plain(kind: Any) -> Any:
    """A type without what annotates it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_tuple(kind: Any) -> bool:
    plain = _plain(kind)
    return any(get_origin(_plain(member)) is tuple for member in (plain, *get_args(plain)))


def _has(kind: Any, mark: Any) -> bool:
    """Whether tyro's mark annotates a type."""
    return mark in getattr(kind, "__metadata__", ())


def _shown(name: str, types: Types) -> str:
    """The name of an argument as messages show it."""
    return name.upper() if _has(types[name], tyro.conf.Positional) else flag(name)
