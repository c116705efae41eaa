"""Running the commands of cells: several at a time, each with a log of its own, until done or told to stop."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inference.runs.interruption import Interruption
from kpp_pyro.files.atomic import writing

_LOOK_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Task:
    """Commands to run one after the other, as long as they succeed.

    Attributes:
        name: what it is reported as.
        commands: programs with their arguments.
        log: file that everything they print is added to.
    """

    name: str
    commands: Sequence[Sequence[str]]
    log: Path


def run_tasks(tasks: Sequence[Task], jobs: int, report: Callable[[Task, str | None], None]) -> int:
    """Run tasks, `jobs` at a time, and report each with None, or the sentence that says why it failed.

    The first Ctrl-C or SIGTERM is passed on to what runs, and waited for; a second ends that at once.

    Returns:
        The signal that interrupted it, or 0; tasks that it cut short are not reported.
    """
    waiting, running, told = list(tasks), list[_Running](), False
    with Interruption() as interruption:
        try:
            while running or (waiting and not interruption.signal):
                while waiting and len(running) < jobs and not interruption.signal:
                    running.append(_Running(waiting.pop(0), threads_of_each(jobs)))
                if interruption.signal and not told:
                    told = True
                    for task in running:
                        task.process.send_signal(interruption.signal)
                for ended in [task for task in running if not task.goes_on(stopping=bool(interruption.signal))]:
                    running.remove(ended)
                    if ended.is_done or not interruption.signal:
                        report(ended.task, ended.failure())
                time.sleep(_LOOK_EVERY)
        finally:
            for task in running:
                task.kill()
    return interruption.signal


def threads_of_each(jobs: int) -> int:
    """Threads for each of several processes, so that they share out the cores of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


class _Running:
    """A task, at one of its commands."""

    def __init__(self, task: Task, threads: int) -> None:
        self.task, self._left = task, list(task.commands)
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        with writing(task.log):
            self._log_began = task.log.stat().st_size if task.log.exists() else 0
        self._start()

    def _start(self) -> None:
        """Start the next command, in a session of its own: Ctrl-C in the terminal reaches it through us alone."""
        self.command = self._left.pop(0)
        with writing(self.task.log), self.task.log.open("ab") as log:
            log.write(f"$ {shlex.join(self.command)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def goes_on(self, stopping: bool) -> bool:
        """Whether a command runs; starts the next after one that succeeded, unless it is to stop."""
        if self.process.poll() == 0 and self._left and not stopping:
            self._start()
        return self.process.poll() is None

    def kill(self) -> None:
        """End the command at once, with all that it has started: its session is a process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
            os.killpg(self.process.pid, signal.SIGKILL)

    @property
    def is_done(self) -> bool:
        """Whether all commands have succeeded."""
        return self.process.returncode == 0 and not self._left

    def failure(self) -> str | None:
        """Why the task ended before its end: the last sentence that the command says of an error."""
        if self.is_done:
            return None
        said = self.task.log.read_bytes()[self._log_began :].decode(errors="replace")
        sentences = re.findall(r"(?:^|[\r\n])error: (.+)", said) or re.findall(r"^[\w.]*Error: .+", said, re.MULTILINE)
        script = next((Path(part).name for part in self.command if part.endswith(".py")), self.command[0])
        status = self.process.returncode
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        how = sentences[-1] if sentences else how
        return f"{script}: {how}"
