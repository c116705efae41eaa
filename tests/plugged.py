"""Forgetting plug-ins: what they register would otherwise stay for the tests that follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from inference.runs import plugins
from inference.runs.registries import REGISTRIES


def forget() -> None:
    """Forget the plug-ins that are loaded, as another process would."""
    for field, name in [part for plugin in plugins._loaded.values() for part in plugin.parts]:
        REGISTRIES[field].parts.pop(name, None)
    for name in [name for name in sys.modules if name.startswith("kpp_pyro_plugin_")]:
        del sys.modules[name]
    plugins._loaded.clear()
    plugins._note.cache_clear()


@contextmanager
def forgotten_after() -> Iterator[None]:
    try:
        yield
    finally:
        forget()
