"""A Sphinx extension: docstrings of this project, which are plain text with `code`, as reStructuredText.

Indented formulas and tables become literal blocks. Outside of these and of `code`, no character has a meaning.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples|Note):$")
_MARKUP = re.compile(r"(`[^`]*`)(\w?)|[*|\\]|(?<=\w)_(?!\w)")


def process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place."""
    lines[:] = list(_restructured(lines))


def skip(app: Sphinx, what: str, name: str, obj: object, skipped: bool, options: object) -> bool | None:
    """Leave out what pydantic adds to a module or a class: generic classes with a parameter, and its settings."""
    return True if "[" in name or name == "model_config" else None


def _restructured(lines: list[str]) -> list[str]:
    found: list[str] = []
    in_section = in_literal = False
    for line in lines:
        if _SECTION.match(line):
            in_section = True
        elif line and not line.startswith(" "):
            in_section = False
        starts = line.startswith("|") or (line.startswith("    ") and not in_section)
        if starts and not in_literal and (not found or not found[-1].strip() or line.startswith("|")):
            found += ["", "::", ""]
            in_literal = True
        elif line.strip() and not starts:
            if in_literal:
                found.append("")
            in_literal = False
        found.append("    " + line if in_literal and line else _escaped(line))
    return found


def _escaped(line: str) -> str:
    return _MARKUP.sub(_replacement, line)


def _replacement(match: re.Match[str]) -> str:
    if match[1] is None:
        return "\\" + match[0]
    return match[1] + (f"\\ {match[2]}" if match[2] else "")  # what follows code has to be set apart


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
