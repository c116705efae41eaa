"""Errors of inference."""

from __future__ import annotations


class DivergenceError(RuntimeError):
    """A loss, gradient, parameter or ELBO became NaN or infinite; the message names the step and the terms."""


class ReportedError(Exception):
    """What ends several processes, and the first of them says: the others raise this, to end quietly.

    Attributes:
        error: what it is.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
