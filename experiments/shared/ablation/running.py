"""Running the commands of cells: several at a time, each with its own log, until finished or interrupted."""

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
from inference.threads import idle_cores
from kpp_pyro.files.atomic import writing

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Task:
    """Commands to run one after the other, as long as they succeed.

    Attributes:
        name: name in reports.
        commands: programs with their arguments.
        log: file that their output is appended to.
    """

    name: str
    commands: Sequence[Sequence[str]]
    log: Path


def run_tasks(tasks: Sequence[Task], jobs: int, report: Callable[[Task, str | None], None]) -> int:
    """Run tasks, `jobs` at a time.

    The first Ctrl-C or SIGTERM is passed on to the running commands, which may finish; a second one kills them.

    Args:
        tasks: what to run.
        jobs: number of tasks that run at the same time.
        report: called at the end of each task, with None or its error message.

    Returns:
        The number of the signal that interrupted the tasks, or 0; interrupted tasks are not reported.
    """
    waiting, running, signalled = list(tasks), list[_Running](), False
    threads = threads_of_each(jobs)
    with Interruption() as interruption:
        try:
            while running or (waiting and not interruption.signal):
                while waiting and len(running) < jobs and not interruption.signal:
                    running.append(_Running(waiting.pop(0), threads))
                if interruption.signal and not signalled:
                    signalled = True
                    for task in running:
                        task.process.send_signal(interruption.signal)
                for ended in [task for task in running if not task.is_running(stopping=bool(interruption.signal))]:
                    running.remove(ended)
                    if ended.is_done or not interruption.signal:
                        report(ended.task, ended.failure())
                time.sleep(_POLL_SECONDS)
        finally:
            for task in running:
                task.kill()
    return interruption.signal


def threads_of_each(jobs: int) -> int:
    """Threads for each of several processes that share the idle cores of this machine."""
    return max(1, idle_cores() // jobs)


class _Running:
    """A task while one of its commands runs."""

    def __init__(self, task: Task, threads: int) -> None:
        self.task, self._left = task, list(task.commands)
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        with writing(task.log):
            self._log_began = task.log.stat().st_size if task.log.exists() else 0
        self._start()

    def _start(self) -> None:
        """Start the next command in its own session, so that Ctrl-C in the terminal does not reach it directly."""
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

    def is_running(self, stopping: bool) -> bool:
        """Whether a command runs; after one that succeeded, this starts the next unless stopping."""
        if self.process.poll() == 0 and self._left and not stopping:
            self._start()
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill the command and its child processes: its session is a process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # already ended
            os.killpg(self.process.pid, signal.SIGKILL)

    @property
    def is_done(self) -> bool:
        """Whether all commands have succeeded."""
        return self.process.returncode == 0 and not self._left

    def failure(self) -> str | None:
        """The error message of an unfinished task: the last error in the command's output, or its exit status."""
        if self.is_done:
            return None
        output = self.task.log.read_bytes()[self._log_began :].decode(errors="replace")
        sentences = re.findall(r"(?:^|[\r\n])error: (.+)", output) or re.findall(
            r"^[\w.]*Error: .+", output, re.MULTILINE
        )
        script = next((Path(part).name for part in self.command if part.endswith(".py")), self.command[0])
        status = self.process.returncode
        ending = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return f"{script}: {sentences[-1] if sentences else ending}"
