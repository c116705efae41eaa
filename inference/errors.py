"""Errors of inference."""

from __future__ import annotations


class DivergenceError(RuntimeError):
    """A loss, gradient, parameter or ELBO became NaN or infinite; the message names the step and the terms."""
