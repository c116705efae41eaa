"""Standard output and error that never raise an error: what they cannot take is dropped."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class LastingFile(io.FileIO):
    """A file descriptor that drops everything after its first failed write.

    Attributes:
        failure: error of that write, if any.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes, or drop them; returns how many were written or dropped."""
        if self.failure is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


@contextlib.contextmanager
def lasting_streams() -> Iterator[LastingFile | None]:
    """Replace the program's standard output and error by `LastingFile`s; yields that of the output.

    Characters that the terminal cannot show are escaped. A stream that Python code has redirected stays as it is; if it
    is the output, None is yielded.
    """
    _occupy_closed_descriptors()
    output = _lasting(sys.stdout) if sys.stdout is sys.__stdout__ else None
    errors = _lasting(sys.stderr, line_buffering=True) if sys.stderr is sys.__stderr__ else None
    with contextlib.ExitStack() as stack:
        if output:
            stack.enter_context(contextlib.redirect_stdout(output))
        if errors:
            stack.enter_context(contextlib.redirect_stderr(errors))
        try:
            yield output.buffer.raw if output else None
        finally:
            for stream in filter(None, (output, errors)):
                stream.flush()


def _occupy_closed_descriptors() -> None:
    """Open closed standard descriptors on the null device: a file opened later would receive what is printed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)


def _lasting(stream: Any, line_buffering: bool = False) -> Any:
    """A text stream like `stream`, which is None if it was closed before the program began."""
    if stream is None:
        file, encoding = LastingFile(os.devnull, "w"), "utf-8"
        file.failure = OSError(errno.EBADF, os.strerror(errno.EBADF))
    else:
        file, encoding = LastingFile(stream.fileno(), "w", closefd=False), stream.encoding
    by_line = line_buffering or file.isatty()
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=by_line)
