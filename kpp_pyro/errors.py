"""The error of bad input."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one sentence: the file, flag or tensor, what was expected and what was found.

    Scripts print it without a traceback and exit with status 2.
    """
