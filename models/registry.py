"""The registry of memory models, by the name that a configuration uses (`--model`).

Each model's file registers it, and `models/__init__.py` imports the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelKind:
    """A registered memory model.

    Attributes:
        build: builds the model/guide pair from `models.parts.Parts`.
        settings: the model-specific fields of the configuration that this model uses.
        key_scalars: field of the configuration that is the number of scalars of a key; None without such a field.
        keys_from_images: whether q(y | x) needs no memory, as the key prior `vamp` requires.
        has_memory: whether there is a memory; without one, a memory has zero scalars.
        like: name of the model whose preset it takes too, if any.
    """

    build: Callable[[Any], Any]
    settings: frozenset[str]
    key_scalars: str | None = None
    keys_from_images: bool = False
    has_memory: bool = True
    like: str | None = None

    @property
    def has_blocks(self) -> bool:
        """Whether the memory consists of blocks, which a write fills."""
        return "write" in self.settings


MODELS: dict[str, ModelKind] = {}
"""Memory models by name."""
