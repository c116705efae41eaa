"""Explore a trained memory on a local page; needs `pip install -e ".[explore]"`.

python experiments/explore.py runs/mnist
python experiments/explore.py runs/mnist --collection drawings.memory
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, NoReturn

from pydantic import Field

from experiments.shared.arguments import RunArguments
from experiments.shared.command_line import parse, script_name
from experiments.shared.script import run_script
from kpp_pyro.errors import InputError

if TYPE_CHECKING:
    import gradio

    from experiments.shared.explore_session import Explorer

_ADDRESS = "127.0.0.1"  # this computer only: the page shows the data
_MOST_EPISODES = 100


@dataclass(frozen=True)
class Arguments(RunArguments):
    """Explore a trained memory on a page in the browser. Only this computer can open it; Ctrl-C ends it."""

    collection: Path | None = None
    """Folder of a collection of recall.py, to find pictures in. The folder is not changed."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the page. None: the first free one from 7860."""
    open: bool = False
    """Open the page in the default browser."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    _require_port(arguments.port)
    from experiments.shared.explore_session import Explorer

    run = arguments.load()
    memory = run.memory
    episodes = [batch[0] for batch, _ in islice(run.episodes.test.batches(1), _MOST_EPISODES)]
    explorer = Explorer(memory, episodes, arguments.collection)
    with TemporaryDirectory(prefix="explore-", ignore_cleanup_errors=True) as uploads:
        _require_gradio(uploads)  # after a download of the data set, which may need a proxy
        return _serve(explorer, run.folder.path.resolve().name, arguments)


def _serve(explorer: Explorer, name: str, arguments: Arguments) -> int:
    """Serve the page until Ctrl-C."""
    from experiments.shared.explore_page import build_page

    page = build_page(explorer, name)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the page, as Ctrl-C does
    try:
        print(f"{_launch(page, arguments.port, arguments.open)}  (Ctrl-C to end)", flush=True)
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)


def _require_port(port: int | None) -> None:
    """Raise InputError for a port in use, before anything slow is loaded."""
    if port is None:
        return
    try:
        socket.create_server((_ADDRESS, port)).close()
    except OSError as error:
        raise InputError(f"--port: expected a free port, found {port} ({error.strerror})") from error


def _require_gradio(uploads: str) -> None:
    """Import Gradio without telemetry and proxies: it serves this computer alone. No other script needs it.

    Importing Gradio already fails if a proxy is of a kind for which a package is missing.

    Args:
        uploads: folder of uploaded files.

    Raises:
        InputError: Gradio is not installed.
    """
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ["GRADIO_TEMP_DIR"] = uploads
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ["no_proxy"] = _ADDRESS  # or the system's proxies come in, where a system has its own
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        expected = 'Gradio (pip install -e ".[explore]")'
        raise InputError(f"{script_name()}: expected {expected}, found no {error.name}") from error


def _launch(page: gradio.Blocks, port: int | None, show: bool) -> str:
    """Begin to serve the page, in a thread; returns its address.

    Raises:
        InputError: the port cannot be bound.
    """
    from experiments.shared.explore_own import MOST_FILE_SIZE
    from experiments.shared.explore_page import THEME
    from experiments.shared.explore_style import CSS

    try:
        _, address, _ = page.launch(
            server_name=_ADDRESS,
            server_port=port,
            inbrowser=show,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            footer_links=[],
            max_file_size=MOST_FILE_SIZE,
            theme=THEME,
            css=CSS,
        )
    except OSError as error:
        expected = "a free port from 7860" if port is None else "a free port"
        raise InputError(f"--port: expected {expected}, found {port or 'none'} ({error})") from error
    return address


def command() -> NoReturn:
    """Run the script, and end the process."""
    os._exit(run_script(main))  # Python aborts if a thread of the page still runs at its end


if __name__ == "__main__":
    command()
