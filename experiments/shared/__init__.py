"""Code that several scripts share."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from kpp_pyro.siblings import foreign_sibling

# Libraries that fail to load with wrong variables, such as MPLBACKEND, and how the names of these begin.
_READ_ENVIRONMENT = {"tqdm": ("TQDM_",), "matplotlib": ("MPL", "MATPLOTLIB")}


def _obstacle() -> str | None:
    """Why no script can run here, if so."""
    try:
        os.getcwd()
    except OSError:
        return "working folder: expected one that exists, found that it has been deleted"
    if sys.flags.optimize > 1:
        return "PYTHONOPTIMIZE: expected 0 or 1, since libraries use their docstrings, found 2 or more"
    for library, prefixes in _READ_ENVIRONMENT.items():
        try:
            if any(name.startswith(prefixes) for name in os.environ):
                import_module(library)
        except (ValueError, OSError) as error:
            found = " ".join(str(error).split())
            return f"environment: expected variables that {library} can use, found others ({found:.100})"
    return foreign_sibling("inference", "models")


if _sentence := _obstacle():
    print(f"error: {_sentence}", file=sys.stderr)
    raise SystemExit(2)
