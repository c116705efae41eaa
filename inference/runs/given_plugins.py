"""The plug-ins that this user has given, on this machine: only these run again because a run names them.

One line for each, in a file below the user's folder of state: the SHA-256 of a file, or the name of a module.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_FILE = Path("kpp-pyro", "plugins")


def _file_of_keys() -> Path:
    """The file that lists what this user has given."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / _FILE


def was_given(key: str) -> bool:
    """Whether this user has given a plug-in before.

    Args:
        key: SHA-256 of a file, or name of a module.
    """
    with suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
        return key in _file_of_keys().read_text(errors="replace").splitlines()
    return False


def remember(key: str | None) -> None:
    """List that this user has given a plug-in.

    Args:
        key: see `was_given`; None: nothing to list.

    Raises:
        OSError: the list cannot be written: the plug-in has to be given each time.
    """
    if key is None or was_given(key):
        return
    try:
        path = _file_of_keys()
    except RuntimeError as error:
        raise FileNotFoundError("this user has no home folder") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{key}\n")
