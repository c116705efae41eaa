"""The errors of bad input and of files that cannot be written."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one sentence: the file, flag or tensor, what was expected and what was found.

    Scripts print it without a traceback and exit with status 2.
    """

    def __init__(self, message: object = "") -> None:
        sentence, _, _ = str(message).partition("\nTrace Shapes:")  # Pyro adds the sites of a program that raises
        super().__init__(" ".join(sentence.splitlines()))  # a file's name or content may hold line ends


class OutputError(InputError):
    """A file that cannot be written, such as on a full disk. What it held before is unchanged.

    Scripts print it without a traceback and exit with status 1.
    """


def reason(error: Exception) -> str:
    """An exception that reading or writing a file has raised, in at most 100 characters of text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return "bytes that are not text"
    if isinstance(error, RecursionError):
        return "too many nested levels"
    if isinstance(error, KeyError):
        return f"no {error.args[0]}"
    if isinstance(error, TypeError | AttributeError | OverflowError):
        return "a value of another type"
    text = " ".join(str(error).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
