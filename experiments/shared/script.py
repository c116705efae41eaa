"""What every script does alike: how it ends on bad input, divergence and signals, and how processes share it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from inference.errors import DivergenceError, ReportedError
from inference.processes import Processes, joined_processes
from inference.runs.interruption import exit_status
from kpp_pyro.data.decoding import describe_lost_worker, is_lost_worker
from kpp_pyro.errors import InputError

_SHARED = "svi_train.py and evaluate.py"


def run_script(main: Callable[[], int]) -> int:
    """Run a script's main, which knows of one process only, as `run_shared_script` does."""
    return run_shared_script(alone(main))


def alone(main: Callable[[], int]) -> Callable[[Processes], int]:
    """The main of a script that several processes cannot share: it refuses them."""

    def run(processes: Processes) -> int:
        if processes.count == 1:
            return main()
        name = Path(sys.argv[0]).name
        error = InputError(f"{name}: expected one process, found {processes.count}; torchrun is for {_SHARED} alone")
        raise error if processes.is_first else ReportedError(error)

    return run


def run_shared_script(main: Callable[[Processes], int]) -> int:
    """Run a script's main, in each process that `torchrun` has started, and return its exit status.

    Errors that a user can act on become one sentence. Only the first process has anything to say, but for an error
    that it does not know of.
    """
    with contextlib.suppress(_FailedError), joined_processes() as processes:
        status = run_main(main, processes)
        sys.stdout.flush()
        processes.end_in_order()
        if status:
            raise _FailedError  # the others may not know of it, and not come to the end of the group
    return status


class _FailedError(Exception):
    """Leaves a group of processes without waiting for the others."""


def run_main(main: Callable[[Processes], int], processes: Processes) -> int:
    """Run a main, and turn the errors that a user can act on into one sentence and an exit status."""
    who = "" if processes.is_first else f"process {processes.rank}: "
    try:
        with contextlib.nullcontext() if processes.is_first else _silence():
            return main(processes)
    except ReportedError as error:
        return _status_of(error.error)
    except (InputError, DivergenceError) as error:
        kept = "; checkpoint.pt is the last good one" if isinstance(error, DivergenceError) else ""
        print(f"error: {who}{error}{kept}", file=sys.stderr)
        return _status_of(error)
    except RuntimeError as error:
        if not is_lost_worker(error):
            raise
        print(f"error: {who}{describe_lost_worker(error)}", file=sys.stderr)
        return 2
    except SystemExit as end:  # of the parser, which has said why
        return int(end.code or 0)
    except BrokenPipeError:  # the reader of our output has seen enough, as in `... --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if processes.is_first:
            print("interrupted", file=sys.stderr)
        return exit_status(signal.SIGINT)


def _status_of(error: Exception) -> int:
    return 2 if isinstance(error, InputError) else 1


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Let nothing that is printed inside be seen; an exception that leaves it is."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
