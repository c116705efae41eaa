"""How this project's distributions expand."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

from torch import Size


class ExpandsOnce:
    """A distribution that is itself in plates of its own shape: Pyro expands one for every plate around it.

    Its parameters were checked when it was made, and are not checked again; values are, as before.
    """

    _validate_args: bool
    batch_shape: Size

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """Expand to a batch shape; itself, where that is its own."""
        if Size(batch_shape) == self.batch_shape:
            return self
        wide = self._widened(Size(batch_shape))
        wide._validate_args = self._validate_args
        return wide

    @abstractmethod
    def _widened(self, batch_shape: Size) -> Self:
        """The distribution with its parameters expanded to a batch shape."""
