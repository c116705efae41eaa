"""Errors of inference."""

from __future__ import annotations


class DivergenceError(RuntimeError):
    """A loss, gradient, parameter, ELBO or importance weight is NaN or infinite; the message says where."""


class ReportedError(Exception):
    """An error that ends a job of several processes: the first process raises the error, the others raise this.

    Attributes:
        error: the error of the job.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
