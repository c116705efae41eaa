"""Kanerva++ and its rivals: parts of memory models, and, by lazy attributes (SPEC 1), the whole of the public API.

    import kpp_pyro as kpp

    run = kpp.load("runs/mnist")
    memory = run.memory.write(images)

The names are those of `inference`; importing `kpp_pyro` alone imports none of them.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_API = "inference"  # looked up by name: nothing in this package imports it


def __getattr__(name: str) -> Any:
    """Look up a name of the public API."""
    if name == "__version__":
        return _version()
    if name.startswith("_") or name not in (api := _api()).__all__:
        raise AttributeError(f"module 'kpp_pyro' has no attribute {name!r}")
    return getattr(api, name)


def __dir__() -> list[str]:
    """Names of the parts and of the public API."""
    return sorted({*globals(), "__version__", *_api().__all__})


def _api() -> Any:
    from kpp_pyro.siblings import require_siblings  # here, since looking for packages takes time

    require_siblings(_API)
    return importlib.import_module(_API)


def _version() -> str:
    try:
        return version("kpp-pyro")
    except PackageNotFoundError:  # a copy that is not installed
        return "unknown"
