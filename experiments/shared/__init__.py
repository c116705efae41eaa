"""Code that several scripts share."""

from __future__ import annotations

import sys

from kpp_pyro.siblings import foreign_sibling

if _sentence := foreign_sibling("inference", "models"):
    print(f"error: {_sentence}", file=sys.stderr)
    raise SystemExit(2)
