"""Training or scoring by several processes at once, as `torchrun` starts them; one process is the usual case."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from inference.errors import DivergenceError, ReportedError
from kpp_pyro.errors import InputError

_PATIENCE = timedelta(minutes=10)  # for a process that does not come to a meeting point
_LAST_WORD = timedelta(seconds=10)  # for the first one to say why all of them end
_SAID = "kpp_pyro/said"
_ACCEPTED = signature(DistributedDataParallel).parameters
_SYNC_FLAG = "forward_sync_buffers" if "forward_sync_buffers" in _ACCEPTED else "broadcast_buffers"  # in older torch
_OPTIONS: dict[str, Any] = {_SYNC_FLAG: False}  # buffers are constants

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among those of a job.

    Attributes:
        rank: number of this process, from 0; the first is the one that writes files.
        count: number of processes.
        store: what they leave notes in for each other, beside their meetings.
    """

    rank: int = 0
    count: int = 1
    store: distributed.Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that its gradients are the averages over all processes."""
        if self.count == 1:
            return module
        device = next(module.parameters()).device
        on_gpu = [device] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=on_gpu, **_OPTIONS)

    def gather(self, value: Value) -> list[Value]:
        """Values of all processes, in their order; every process has to call this, as all that follow."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Value) -> Value:
        """The value that the first process has."""
        return self.gather(value)[0]

    @contextmanager
    def sync_errors(self) -> Iterator[None]:
        """Leave a block together, which holds no meeting: an error that a user can act on, in one, is raised by all.

        Raises:
            InputError, DivergenceError: in the first process, whichever met it; the others raise ReportedError.
        """
        error: Exception | None = None
        try:
            yield
        except (InputError, DivergenceError) as caught:
            error = caught
        if self.count == 1 and error is not None:
            raise error
        for rank, found in enumerate(self.gather(error)):
            if found is not None and self.is_first:
                raise error or type(found)(f"process {rank}: {found}")
            if found is not None:
                raise ReportedError(found)

    def end_in_order(self) -> None:
        """Let the first process end before the others: `torchrun` kills the rest as soon as one of them fails."""
        if self.store is None:
            return
        if self.is_first:
            self.store.set(_SAID, "yes")
        else:
            with suppress(RuntimeError):  # it may be gone, or busy
                self.store.wait([_SAID], _LAST_WORD)

    def sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over the processes."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total


SINGLE_PROCESS = Processes()


def launched_processes() -> int:
    """Number of processes that `torchrun` has started for this job; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def processes_here() -> int:
    """Number of them on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Meet the other processes of the job, if there are any; on GPUs each process takes one, by its local rank."""
    if launched_processes() == 1:
        yield SINGLE_PROCESS
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, count = next(distributed.rendezvous("env://"))
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE)
    yield Processes(rank, count, store)
    distributed.destroy_process_group()  # not after an error: others may wait in a meeting that will not be
