"""Plug-ins: Python files and modules outside this project that register parts, such as a prior or a write.

A plug-in is code, and a run names the plug-ins that it was trained with. So a plug-in runs in three cases only:

- it is given: `--plugin`, or `load_plugins`;
- it is installed, in a package with an entry point of the group `kpp_pyro.plugins`;
- a run names it, and this user has given it before: a module of that name, or a file of that very content
  (`given_plugins.py`). A run of somebody else cannot start code that its reader has not chosen.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from inference.runs.given_plugins import remember, was_given
from inference.runs.registries import REGISTRIES, registering
from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import as_path, reading, whole_path
from kpp_pyro.files.run_schemas import PluginRecord

GROUP = "kpp_pyro.plugins"
"""The group of entry points whose modules are plug-ins."""
_MOST_BYTES = 10**7  # of a file


@dataclass(frozen=True)
class Plugin:
    """A loaded plug-in.

    Attributes:
        name: absolute path of a file, or name of a module.
        sha256: of the file.
        parts: what it has registered, pairs of a field and a name.
    """

    name: str
    sha256: str | None
    parts: frozenset[tuple[str, str]]


_loaded: dict[str, Plugin] = {}  # by name


def load_plugins(*plugins: Path | str) -> None:
    """Run plug-ins, which register parts. What is loaded already is not run again.

    Args:
        plugins: Python files, or names of modules that can be imported.

    Raises:
        InputError: no such file or module, an error in it, no new part, a part that is none, or a name that is taken.
    """
    load_installed()
    for plugin in plugins:
        if _is_file(as_path(plugin, "a plug-in")):
            path = whole_path(plugin)
            _remember(plugin, _load_file(path, _read(path)).sha256)
        else:
            _remember(plugin, _load_module(str(plugin)).name)


def _remember(plugin: Path | str, key: str | None) -> None:
    """Remember that a plug-in was given, or note on stderr that it was not possible."""
    try:
        remember(key)
    except OSError as error:
        why = f"{error.filename} cannot be written ({error.strerror})" if error.filename else str(error)
        _note(f"note: {plugin}: a run will not find this plug-in again without --plugin, since {why}")


def load_installed() -> None:
    """Load the plug-ins of installed packages, at the first call.

    Raises:
        InputError: see `load_plugins`.
    """
    waiting = _entry_points()
    while waiting:
        entry = waiting.pop()  # before it runs: it may come back here
        try:
            _load_module(entry.module, may_be_imported=True)
        except InputError as error:
            waiting.append(entry)
            package = entry.dist.name if entry.dist else "a package"
            raise InputError(f"{error}; it is a plug-in of the installed {package}") from error


@cache
def _entry_points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda entry: entry.name, reverse=True)


def load_recorded(source: Path, recorded: Sequence[PluginRecord], config: Mapping[str, Any]) -> None:
    """Load the plug-ins of a run, unless they are loaded, or other ones have registered all parts that it names.

    A plug-in that has changed since, or that others stand in for, is noted on stderr.

    Args:
        source: the run's config.json, for messages.
        recorded: its plug-ins.
        config: its configuration, part by part.

    Raises:
        InputError: a plug-in that is missing, has changed, or was never given by this user; `--plugin` gives it.
    """
    load_installed()
    for record in recorded:
        plugin = _loaded_for(record)
        if plugin is None and _all_registered(config):
            _note(f"note: {source}: the parts of the plug-in {record.plugin} are those of other plug-ins")
            continue
        plugin = plugin or _load_again(source, record)
        if plugin.sha256 != record.sha256:
            _note(f"note: {source}: the plug-in {plugin.name} has changed since the run was trained")


def records_of(fields: Mapping[str, Any]) -> list[PluginRecord]:
    """What a run records: the loaded plug-ins whose parts its configuration names.

    Args:
        fields: every field of the configuration, by name.
    """
    used = [plugin for plugin in _loaded.values() if any(fields.get(field) == name for field, name in plugin.parts)]
    return [PluginRecord(plugin=plugin.name, sha256=plugin.sha256) for plugin in used]


def loaded_names() -> list[str]:
    """The paths or names of all loaded plug-ins."""
    return list(_loaded)


def _all_registered(config: Mapping[str, Any]) -> bool:
    """Whether every part that a configuration names is registered."""
    fields = {name: value for part in config.values() if isinstance(part, dict) for name, value in part.items()}
    return all(fields[field] in list(registry.parts) for field, registry in REGISTRIES.items() if field in fields)


def _loaded_for(record: PluginRecord) -> Plugin | None:
    """The loaded plug-in of a record: of the same content, or else of the same name, from whatever folder."""
    same = [plugin for plugin in _loaded.values() if record.sha256 and plugin.sha256 == record.sha256]
    named = [plugin for plugin in _loaded.values() if Path(plugin.name).name == Path(record.plugin).name]
    return next(iter([*same, *named]), None)


def _load_again(source: Path, record: PluginRecord) -> Plugin:
    """Load a plug-in that a run names, if this user has given it before.

    Raises:
        InputError: see `load_recorded`.
    """
    name = record.plugin
    if not _is_file(Path(name)):
        if not was_given(name):
            what = f"the plug-in {name}, installed or given before"
            raise InputError(f"{source}: expected {what}, found neither; --plugin {name} imports it")
        try:
            return _load_module(name, may_be_imported=True)
        except InputError as error:
            raise InputError(f"{source}: {error}; --plugin gives another file or module") from error
    if not (Path(name).is_absolute() and Path(name).is_file()):
        raise InputError(
            f"{source}: expected the plug-in {name}, found no such file; --plugin gives it, wherever it is"
        )
    content = _read(Path(name))
    if _sha256(content) != record.sha256:
        what = f"the plug-in {name} as the run was trained with it, found a changed file"
        raise InputError(f"{source}: expected {what}; --plugin {name} runs it as it is")
    if not was_given(_sha256(content)):
        what = f"a plug-in that was given before, found {name}"
        raise InputError(f"{source}: expected {what}; read it, then give it by --plugin")
    return _load_file(Path(name), content)


def _is_file(plugin: Path) -> bool:
    """Whether a plug-in is a file, not the name of a module."""
    return plugin.suffix == ".py" or len(plugin.parts) != 1


def _read(path: Path) -> bytes:
    with reading(path, "a plug-in") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise InputError(f"{path}: expected a plug-in of at most {_MOST_BYTES:,} bytes, found a larger file")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _load_file(path: Path, content: bytes) -> Plugin:
    """Run the content of a file, once: what was hashed is what runs."""
    sha256 = _sha256(content)
    loaded = next((plugin for plugin in _loaded.values() if plugin.sha256 == sha256), None)
    if loaded:
        return loaded
    name = f"kpp_pyro_plugin_{sha256[:16]}"
    with registering(str(path)) as parts:
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module  # where dataclasses and annotations look for names
        try:
            exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return _loaded.setdefault(str(path), Plugin(str(path), sha256, frozenset(parts)))


def _load_module(name: str, may_be_imported: bool = False) -> Plugin:
    """Import a module. One that was imported before has registered its parts then; they are not known to be its own."""
    if name in _loaded:
        return _loaded[name]
    is_imported = name in sys.modules
    if is_imported and not may_be_imported:
        raise InputError(f"{name}: expected a plug-in, found a module that was imported before it was given")
    with registering(name, may_be_empty=is_imported) as parts:
        module = importlib.import_module(name)
    file = getattr(module, "__file__", None)
    sha256 = _sha256(_read(Path(file))) if file else None
    return _loaded.setdefault(name, Plugin(name, sha256, frozenset(parts)))


@cache
def _note(sentence: str) -> None:
    """Print a sentence on stderr, once."""
    print(sentence, file=sys.stderr)
