"""Code that several scripts share."""

from __future__ import annotations

import os
import sys

from kpp_pyro.siblings import foreign_sibling


def _obstacle() -> str | None:
    """Why no script can run here, if so."""
    try:
        os.getcwd()
    except OSError:
        return "working folder: expected one that exists, found that it has been deleted"
    return foreign_sibling("inference", "models")


if _sentence := _obstacle():
    print(f"error: {_sentence}", file=sys.stderr)
    raise SystemExit(2)
