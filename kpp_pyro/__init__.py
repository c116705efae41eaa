"""Parts of memory models, and the public API of `inference` as lazy attributes (SPEC 1).

    import kpp_pyro as kpp

    run = kpp.load("runs/mnist")
    memory = run.memory.write(images)

`import kpp_pyro` alone does not import `inference`: the first use of a name of the API does.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_API = "inference"  # imported by name at run time: no file of this package imports it


def __getattr__(name: str) -> Any:
    """Look up a name of the public API."""
    if name == "__version__":
        return _version()
    if name.startswith("_") or name not in (api := _api()).__all__:
        raise AttributeError(f"module 'kpp_pyro' has no attribute {name!r}")
    return getattr(api, name)


def __dir__() -> list[str]:
    """Names of this package and of the public API."""
    return sorted({*globals(), "__version__", *_api().__all__})


def _api() -> Any:
    from kpp_pyro.siblings import require_siblings  # not at the top: finding packages takes time

    require_siblings(_API)
    return importlib.import_module(_API)


def _version() -> str:
    try:
        return version("kpp-pyro")
    except PackageNotFoundError:  # a copy that is not installed
        return "unknown"
