"""Kanerva++ and other memory models: train, load and use memory models; and the parts that they are built from.

    import kpp_pyro as kpp

    run = kpp.load("runs/mnist")
    memory = run.memory.write(images)

The public API is that of `inference`, imported at the first use of one of its names. Sub-packages: `memory`, `writes`,
`priors`, `posteriors`, `likelihoods`, `networks`, `distributions`, `corruptions`, `data`, `files` and `plots`.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_API = "inference"  # imported by name at run time: no file of this package imports it


def __getattr__(name: str) -> Any:
    """Look up a name of the public API."""
    if name == "__version__":
        return _version()
    if name == "__all__":
        return _api().__all__
    if name.startswith("_") or name not in (api := _api()).__all__:
        raise AttributeError(f"module 'kpp_pyro' has no attribute {name!r}")
    return getattr(api, name)


def __dir__() -> list[str]:
    """Names of this package and of the public API."""
    packages = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted({"__all__", "__doc__", "__name__", "__version__", *packages, *_api().__all__})


def _api() -> Any:
    from kpp_pyro.siblings import require_siblings  # not at the top: finding packages takes time

    require_siblings(_API)
    return importlib.import_module(_API)


def _version() -> str:
    try:
        return version("kpp-pyro")
    except PackageNotFoundError:  # a copy that is not installed
        return "unknown"
