"""Errors that a user can act on."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: one sentence naming the file, flag or tensor, what was expected and what was found.

    Scripts print it without a traceback and exit with status 2.
    """
