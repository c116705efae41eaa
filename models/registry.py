"""The registry of memory models: what a model says of itself, by the name that a configuration gives it.

The file of each model registers it, and `models/__init__.py` imports the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelKind:
    """A memory model, as it is registered.

    Attributes:
        build: makes its model/guide pair of `models.parts.Parts`.
        settings: fields of the configuration that this model has a use for, of those that not every model has.
        keys_from_images: whether q(y | x) needs no memory, so that a prior of keys can be made of it (vamp).
    """

    build: Callable[[Any], Any]
    settings: frozenset[str]
    keys_from_images: bool = False


MODELS: dict[str, ModelKind] = {}
