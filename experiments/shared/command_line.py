"""Command lines: one parser for all scripts, whose errors are one sentence each.

Tyro writes `--help`, argparse splits the command line, and pydantic checks the values.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from argparse import SUPPRESS, ArgumentError, ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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

Plugins = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(
        metavar="FILE|MODULE",
        help="Python file, or name of a module, that registers parts of its own: a model, a write, a prior, a data "
        "set, ... (see docs/guides/extend.md). May be given several times. A run finds its plug-ins again where you "
        "gave them.",
        help_behavior_hint="(default: none)",
    ),
]
"""The type of the flag --plugin. `parse` loads plug-ins before anything else, so that --help lists their parts."""

_NARROWEST = 60  # columns of a help; with a few, tyro would not end
_SHORTER = {"data_dir": ("--data",)}  # of a file of images; a folder is data, too
_COMMAND = "kpp-"  # how the names of console commands begin
_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)  # how a negative number begins


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
    if "plugin" in types and (plugins := _given_plugins(types["plugin"], tokens)):
        from inference.runs.plugins import load_plugins

        load_plugins(*plugins)
    if "-h" in tokens or "--help" in tokens:
        show_help()
    texts = _texts_by_name(types, tokens)
    values = {name: _value(types[name], found) for name, found in texts.items()}
    given = create_model("Given", **{name: (types[name], ...) for name in values})  # type: ignore[call-overload]
    try:
        return dict(given(**values))
    except ValidationError as error:
        raise as_input_error(error, given) from None


def _given_plugins(kind: Any, tokens: Sequence[str]) -> list[str]:
    """The plug-ins on a command line, whatever else is wrong with it."""
    end = list(tokens).index("--") if "--" in tokens else len(tokens)
    with suppress(ArgumentError):  # a flag without a value, which is refused later
        given, _ = _splitter({"plugin": kind}).parse_known_args(tokens[:end])
        return [text for texts in vars(given).get("plugin", ()) for text in texts if text]
    return []


def print_help(kind: Any, **options: Any) -> None:
    """Print what tyro, with its options, says of a dataclass, and end the program."""
    if shutil.get_terminal_size().columns < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST)
    prog = script_name() if script_name().startswith(_COMMAND) else shlex.quote(sys.argv[0])
    tyro.cli(kind, prog=prog, args=["--help"], **options)


def script_name() -> str:
    """The program that runs, as it was started: `svi_train.py`, or the command `kpp-train`."""
    return Path(sys.argv[0]).name


def starting(script: str) -> list[str]:
    """The words that start a script in the way in which this program was started: as a file, or by its command."""
    started = Path(sys.argv[0])
    if started.name.startswith(_COMMAND):
        return [command_of(script)]
    folder = started.parent if (started.parent / script).is_file() else Path("experiments")
    return ["python", str(folder / script)]


def command_of(script: str) -> str:
    """The console command of a script: `kpp-train`, and otherwise `kpp-` with the script's name."""
    return _COMMAND + ("train" if script == "svi_train.py" else script.removesuffix(".py").replace("_", "-"))


def _texts_by_name(types: Types, tokens: Sequence[str]) -> dict[str, list[str]]:
    """The texts of each given flag and of the positional argument; argparse finds whose they are."""
    end = list(tokens).index("--") if "--" in tokens else len(tokens)
    try:
        given, free = _splitter(types).parse_known_args(tokens[:end])
    except ArgumentError as error:
        name, _, value = (error.argument_name or "").split("/")[0], *error.message.partition("explicit argument ")[1:]
        expected = f"expected no value, found {value:.100}" if value else "expected a value, found none"
        raise InputError(f"{name}: {expected}") from None
    _require_no_flag(types, free)
    for name, uses in vars(given).items():
        if len(uses) > 1 and not _has(types[name], tyro.conf.UseAppendAction):
            raise InputError(f"{flag(name)}: expected the flag once, found it twice")
    found = {name: [text for texts in uses for text in texts] for name, uses in vars(given).items()}
    found |= _positional(types, [*free, *tokens[end + 1 :]])
    empty = next((name for name, texts in found.items() if "" in texts), None)
    if empty is not None:
        raise InputError(f"{_shown(empty, types)}: expected a value, found ''")
    return found


def _splitter(types: Types) -> ArgumentParser:
    """A parser that collects the texts of each use of a flag; positional arguments are what it leaves."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=SUPPRESS)
    parser._negative_number_matcher = _NUMBER  # argparse alone takes -1e-3 for a flag before Python 3.14
    for name, kind in types.items():
        if _plain(kind) is bool:
            for spelled, text in ((name, "true"), (f"no_{name}", "false")):
                parser.add_argument(*_spellings(spelled), dest=name, action="append_const", const=[text])
        elif not _has(kind, tyro.conf.Positional):
            several = _is_tuple(kind) and not _has(kind, tyro.conf.UseAppendAction)
            parser.add_argument(*_spellings(name), dest=name, action="append", nargs="+" if several else 1)
    return parser


def _spellings(name: str) -> list[str]:
    """A flag with hyphens, and other spellings: with underscores, and a shorter one."""
    return list(dict.fromkeys([flag(name), f"--{name}", *_SHORTER.get(name, ())]))


def _require_no_flag(types: Types, free: Sequence[str]) -> None:
    """Raise InputError, with the nearest name, if argparse left a flag, which is then unknown."""
    flags = (text for text in free if text.startswith("-") and text != "-" and not _NUMBER.match(text))
    unknown = next((text.partition("=")[0] for text in flags), None)
    if unknown is not None:
        known = [flag(prefix + name) for name, kind in types.items() for prefix in _prefixes(kind)]
        hint = did_you_mean(unknown.replace("_", "-"), known)
        raise InputError(f"{unknown:.100}: expected a flag of {script_name()}, found none of that name{hint}")


def _prefixes(kind: Any) -> tuple[str, ...]:
    """What may stand before the name of an argument in its flags."""
    if _has(kind, tyro.conf.Positional):
        return ()
    return ("", "no_") if _plain(kind) is bool else ("",)


def _positional(types: Types, texts: list[str]) -> dict[str, list[str]]:
    """The texts without a flag, by the name of the positional argument.

    Raises:
        InputError: more than the script takes.
    """
    name = next((name for name, kind in types.items() if _has(kind, tyro.conf.Positional)), None)
    if not texts:
        return {}
    if name is None:
        raise InputError(f"{script_name()}: expected flags alone, found {texts[0]!r:.100} without a flag")
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
