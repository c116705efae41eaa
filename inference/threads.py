"""Threads of torch on the CPU.

A thread that waits for another one spins for milliseconds. Beside other programs the other one often has no core, and
a step on as many threads as cores then takes ten times as long as on one, and more (docs/performance.md).
"""

from __future__ import annotations

import os
from collections.abc import Collection

import psutil
import torch

from inference.processes import SINGLE_PROCESS, Processes

_WATCHED_SECONDS = 0.1
_CHOICES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # of the user, or of torchrun


def choose_threads(kept: int | None = None, processes: Processes = SINGLE_PROCESS) -> None:
    """Set torch's threads to the number of idle cores; never to more than it has.

    Nothing changes if the environment sets the number to one that OpenMP takes, or with several processes.

    Args:
        kept: a number to take instead: that of the run that goes on, since sums depend on it.
        processes: those that run together.
    """
    threads = torch.get_num_threads()
    if threads == 1 or processes.count > 1 or any(_is_chosen(os.environ.get(name, "")) for name in _CHOICES):
        return
    torch.set_num_threads(min(threads, kept or idle_cores()))


def _is_chosen(text: str) -> bool:
    """Whether a variable sets a number of threads; OpenMP ignores other texts, such as an empty one."""
    first = text.split(",")[0].strip()  # a number for each level of nested teams
    return first.isdecimal() and int(first) > 0


def idle_cores() -> int:
    """Cores of this process that no program uses, at least 1; watches them for a tenth of a second."""
    busy = dict(enumerate(psutil.cpu_percent(_WATCHED_SECONDS, percpu=True)))  # a container may not show all
    used = sum(busy.get(core, 0.0) for core in own_cores()) / 100
    return max(1, round(len(own_cores()) - used))


def own_cores() -> Collection[int]:
    """Numbers of the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
