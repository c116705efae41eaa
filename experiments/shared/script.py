"""Running a script: exit status on bad input, divergence and signals, with one process or several."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from inference.errors import DivergenceError, ReportedError
from inference.processes import Processes, joined_processes
from inference.runs.interruption import exit_status
from kpp_pyro.data.decoding import describe_lost_worker, is_lost_worker
from kpp_pyro.errors import InputError, reason
from kpp_pyro.files.run_folder import RunFolder

_SHARED = "svi_train.py and evaluate.py"


def run_script(main: Callable[[], int]) -> int:
    """Run the main of a script for one process, see `run_shared_script`; returns the exit status."""
    return run_shared_script(single_process(main))


def single_process(main: Callable[[], int]) -> Callable[[Processes], int]:
    """A main for `run_shared_script` that raises InputError with several processes."""

    def run(processes: Processes) -> int:
        if processes.count == 1:
            return main()
        name = Path(sys.argv[0]).name
        error = InputError(f"{name}: expected one process, found {processes.count}; torchrun works with {_SHARED} only")
        raise error if processes.is_first else ReportedError(error)

    return run


def run_shared_script(main: Callable[[Processes], int]) -> int:
    """Run a script's main in each process that `torchrun` has started; returns its exit status.

    An InputError or DivergenceError is printed as one sentence. Only the first process prints, except for an error that
    occurs in another process only.
    """
    with contextlib.suppress(_FailedError), joined_processes() as processes:
        status = run_main(main, processes)
        sys.stdout.flush()
        processes.end_in_order()
        if status:
            raise _FailedError  # the others may not know of it, and never reach the end of the group
    return status


def print_figures(folder: RunFolder, names: Iterable[str]) -> None:
    """Print the paths of a run's figures, one per line."""
    for name in names:
        print(folder.figures / f"{name}.png")


class _FailedError(Exception):
    """Leaves a group of processes without waiting for the others."""


def run_main(main: Callable[[Processes], int], processes: Processes) -> int:
    """Run a main; an InputError or DivergenceError becomes one printed sentence and an exit status."""
    prefix = "" if processes.is_first else f"process {processes.rank}: "
    try:
        with contextlib.nullcontext() if processes.is_first else _silence():
            return main(processes)
    except ReportedError as error:
        return _status_of(error.error)
    except (InputError, DivergenceError) as error:
        kept = "; checkpoint.pt is the last good one" if isinstance(error, DivergenceError) else ""
        print(f"error: {prefix}{error}{kept}", file=sys.stderr)
        return _status_of(error)
    except RuntimeError as error:
        if is_lost_worker(error):
            sentence = describe_lost_worker(error)
        elif isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            sentence = f"memory of the machine: expected enough for these sizes, found too little ({reason(error)})"
        else:
            raise
        print(f"error: {prefix}{sentence}", file=sys.stderr)
        return 2
    except SystemExit as end:  # of the parser, which has printed the error
        return int(end.code or 0)
    except BrokenPipeError:  # the reader of the output has closed it, as in `... --help | head`
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
    """Discard everything printed inside; exceptions pass through."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
