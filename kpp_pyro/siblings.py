"""Checks that Python imports this project's packages, not other packages of the same names."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def foreign_sibling(*names: str) -> str | None:
    """An error sentence if a package of another project hides one of this project's; None otherwise.

    Args:
        names: packages of this project, such as "models".
    """
    for name in names:
        spec = find_spec(name)
        places = [] if spec is None else [*(spec.submodule_search_locations or []), *filter(None, [spec.origin])]
        if not any(Path(place).resolve().is_relative_to(_ROOT / name) for place in places):
            found = places[0] if places else "none"
            return (
                f"{name}: expected this project's package in {_ROOT}, found {found}; rename it, or take it off the path"
            )
    return None


def require_siblings(*names: str) -> None:
    """Raise ImportError if a package of another project hides one of this project's (`foreign_sibling`)."""
    if sentence := foreign_sibling(*names):
        raise ImportError(sentence)
