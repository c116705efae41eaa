"""Running a script: exit status on bad input, divergence and signals, with one process or several."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from experiments.shared.command_line import script_name
from experiments.shared.streams import lasting_streams
from inference.errors import DivergenceError, ReportedError
from inference.processes import SINGLE_PROCESS, Processes, describe_lost_process, is_lost_process, joined_processes
from inference.runs.interruption import exit_status
from kpp_pyro.errors import InputError, OutputError, reason

if TYPE_CHECKING:
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
        error = InputError(
            f"{script_name()}: expected one process, found {processes.count}; torchrun works with {_SHARED} only"
        )
        raise error if processes.is_first else ReportedError(error)

    return run


def run_shared_script(main: Callable[[Processes], int]) -> int:
    """Run a script's main in each process that `torchrun` has started; returns its exit status.

    Errors of the input and of the machine are printed as one sentence. Only the first process prints, except for an
    error that occurs in another process only. If standard output cannot take everything, main goes on, and the exit
    status is 1.
    """
    with lasting_streams() as output:
        status = run_main(lambda _: _run_joined(main), SINGLE_PROCESS)
        sys.stdout.flush()
    if status or output is None or output.failure is None:
        return status
    if not isinstance(output.failure, BrokenPipeError):  # that of `... | head` is no error of the user
        _say(f"error: standard output: {output.failure.strerror}")
    return 1


def _run_joined(main: Callable[[Processes], int]) -> int:
    with joined_processes() as processes:
        status = run_main(main, processes)
        sys.stdout.flush()
        processes.end_in_order()
        if status and processes.count > 1:
            sys.stderr.flush()
            os._exit(status)  # the others may never reach the end of the group, and torch would wait for them
    return status


def print_figures(folder: RunFolder, names: Iterable[str]) -> None:
    """Print the paths of a run's figures, one per line."""
    for name in names:
        print(folder.figures / f"{name}.png")


def run_main(main: Callable[[Processes], int], processes: Processes) -> int:
    """Run a main; an error that `_ending` knows becomes one printed sentence and an exit status."""
    prefix = "" if processes.is_first else f"process {processes.rank}: "
    try:
        with contextlib.nullcontext() if processes.is_first else _silence():
            return main(processes)
    except ReportedError as error:
        ending = _ending(error.error)
        return ending.status if ending else 1
    except SystemExit as end:  # of --help
        return int(end.code or 0)
    except KeyboardInterrupt:
        if processes.is_first:
            _say("interrupted")
        return exit_status(signal.SIGINT)
    except Exception as error:
        ending = _ending(error)
        if ending is None:
            _note_plugins(error)
            raise
        _say(f"error: {prefix}{ending.sentence}")
        return ending.status


def _note_plugins(error: Exception) -> None:
    """Name the plug-ins in use below the traceback of an error that may be theirs."""
    from inference.runs.plugins import loaded_names

    names = loaded_names()
    if names and not hasattr(error, "__notes__"):  # once, where mains are nested
        error.add_note(f"note: plug-ins are in use, and the error may be theirs: {', '.join(names)}")


class _Ending(NamedTuple):
    """The sentence and the exit status of an error: 2 for bad input, 1 for what happens to good input."""

    sentence: str
    status: int


def _ending(error: Exception) -> _Ending | None:
    """How a script ends with an error of the input or of the machine; None for any other error."""
    if isinstance(error, InputError):
        return _Ending(str(error), 1 if isinstance(error, OutputError) else 2)
    if isinstance(error, RecursionError):
        return _Ending(f"{script_name()}: expected input of fewer nested levels, found too many", 2)
    import torch

    from kpp_pyro.data.decoding import describe_lost_worker, is_lost_worker

    if isinstance(error, RuntimeError) and is_lost_worker(error):
        return _Ending(describe_lost_worker(error), 2)
    if isinstance(error, DivergenceError):
        return _Ending(str(error), 1)
    if isinstance(error, ValueError) and str(error).startswith("Expected parameter "):  # torch.distributions
        found = "found others; its parameters are too large or damaged"
        return _Ending(f"{script_name()}: expected finite numbers from the run's model, {found}", 1)
    if isinstance(error, RuntimeError) and is_lost_process(error):
        return _Ending(f"{script_name()}: {describe_lost_process(error)}", 1)
    if isinstance(error, OSError):
        return _Ending(f"{error.filename or script_name()}: {error.strerror or error}", 1)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        found = f"found too little ({reason(error) or type(error).__name__})"
        return _Ending(f"memory of the machine: expected enough for these sizes, {found}", 1)
    return None


def _say(sentence: str) -> None:
    """Print a sentence to stderr, on one line."""
    print(" ".join(sentence.splitlines()), file=sys.stderr)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discard everything printed inside; exceptions pass through."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
