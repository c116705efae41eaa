"""Places in nested content, such as that of a JSON file, and copies with another value at a place."""

from __future__ import annotations

from typing import Any

Place = tuple[Any, ...]


def places(content: Any, above: Place = ()) -> list[Place]:
    """Every place in nested content; first, (), the whole."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [above, *(place for key, value in items for place in places(value, (*above, key)))]


def at(content: Any, place: Place) -> Any:
    """The value at a place."""
    return at(content[place[0]], place[1:]) if place else content


def changed(content: Any, place: Place, value: Any) -> Any:
    """A copy with another value at a place; `...` deletes it."""
    if not place:
        return value
    copy, key = dict(content) if isinstance(content, dict) else list(content), place[0]
    if len(place) > 1:
        copy[key] = changed(copy[key], place[1:], value)
    elif value is ...:
        del copy[key]
    else:
        copy[key] = value
    return copy
