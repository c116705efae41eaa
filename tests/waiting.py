"""Waiting for what happens at some time, however busy the machine is."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

HANGS = 900
"""Seconds; what takes longer never ends."""


def wait_until(happened: Callable[[], object]) -> None:
    """Return when something has happened; fail if it never does."""
    deadline = time.monotonic() + HANGS
    while not happened():
        assert time.monotonic() < deadline, "it never happens"
        time.sleep(0.05)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
