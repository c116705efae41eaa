"""Several processes, started by `torchrun`, that train or score together; or a single process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from inference.errors import DivergenceError, ReportedError
from kpp_pyro.config_part import require_value
from kpp_pyro.errors import InputError, reason
from kpp_pyro.schema import Natural

if TYPE_CHECKING:
    from torch import Tensor, distributed, nn

_COLLECTIVE_TIMEOUT = timedelta(minutes=10)  # of a collective operation that a process does not join
_MEETING_TIMEOUT = timedelta(minutes=5)  # within which all processes begin
_REPORT_TIMEOUT = timedelta(seconds=10)  # within which the first process reports an error
_REPORTED = "kpp_pyro/reported"  # the store's key that says so
_Number = Annotated[int, Field(ge=1, le=1_000_000)]  # of processes

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among those of a job.

    Attributes:
        rank: number of this process, from 0; process 0 writes files.
        count: number of processes.
        store: key-value store shared by the processes; None for a single process.
    """

    rank: int = 0
    count: int = 1
    store: distributed.Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which writes and prints."""
        return self.rank == 0

    def share(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that its gradients are averaged over all processes."""
        if self.count == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        known = signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # old torch
        options: dict[str, Any] = {sync: False}  # buffers are constants
        device = next(module.parameters()).device
        on_gpu = [device] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=on_gpu, **options)

    def gather(self, value: Value) -> list[Value]:
        """Values of all processes, by rank. Every process must call this method, and those below, at the same point."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def map(self, function: Callable[[Item], Value], items: Iterable[Item]) -> list[Value]:
        """Results of a function for all items, in order, each computed by one process; every process must call this.

        Process r of n computes items r, r + n, r + 2 n, ...

        Raises:
            InputError, DivergenceError, ReportedError: see `sync_errors`.
        """
        with self.sync_errors():
            own = [function(item) for number, item in enumerate(items) if number % self.count == self.rank]
        shards = self.gather(own)
        return [shards[number % len(shards)][number // len(shards)] for number in range(sum(map(len, shards)))]

    def from_first(self, value: Value) -> Value:
        """The first process's value."""
        return self.gather(value)[0]

    @contextmanager
    def sync_errors(self) -> Iterator[None]:
        """Raise an InputError or DivergenceError of any process in all processes, at the end of the block.

        The block must hold no collective operation.

        Raises:
            InputError, DivergenceError: in the first process; the message names another process where it occurred.
            ReportedError: in the other processes.
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
        """Let the first process report an error before the others end: `torchrun` kills all when one fails."""
        if self.store is None:
            return
        waiting = Thread(target=self._report, daemon=True)  # torch itself waits for ever if the store's node is lost
        waiting.start()
        waiting.join(_REPORT_TIMEOUT.total_seconds())

    def _report(self) -> None:
        """Say that the first process has reported, or wait until it has."""
        assert self.store is not None
        with suppress(RuntimeError):  # the first process may be busy, or have ended
            if self.is_first:
                self.store.set(_REPORTED, "yes")
            else:
                self.store.wait([_REPORTED], _REPORT_TIMEOUT)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.count == 1:
            return value
        from torch import distributed

        total = value.detach().clone()
        distributed.all_reduce(total)
        return total


SINGLE_PROCESS = Processes()


def launched_processes() -> int:
    """Number of processes of this job; 1 without `torchrun`."""
    return _variable("WORLD_SIZE", _Number) if "RANK" in os.environ else 1


def processes_here() -> int:
    """Number of this job's processes on this machine."""
    return _variable("LOCAL_WORLD_SIZE", _Number)


def _variable(name: str, kind: Any, default: str = "1") -> int:
    """A number that `torchrun` puts into the environment.

    Raises:
        InputError: a value that is not of the type `kind`.
    """
    value: int = require_value(f"{name} in the environment", os.environ.get(name, default), kind, strict=False)
    return value


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the process group of the job; yields `SINGLE_PROCESS` without `torchrun`. Each process uses its own GPU.

    Raises:
        InputError: variables of `torchrun` that are malformed, incomplete, or not those of processes that there are.
    """
    count = launched_processes()
    if count == 1:
        yield SINGLE_PROCESS
        return
    import torch
    from torch import distributed

    _variable("RANK", Annotated[int, Field(ge=0, lt=count)])
    local_rank = _variable("LOCAL_RANK", Natural, "")
    if local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, count = next(distributed.rendezvous("env://", timeout=_MEETING_TIMEOUT))
    except (ValueError, RuntimeError) as error:  # torch's
        found = f"variables in the environment with which they do not meet ({reason(error)})"
        raise InputError(f"torchrun: expected {count} processes that meet, found {found}") from error
    store.set_timeout(_COLLECTIVE_TIMEOUT)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_COLLECTIVE_TIMEOUT)
    yield Processes(rank, count, store)
    distributed.destroy_process_group()  # not after an error: others may wait in a collective operation


def is_lost_process(error: RuntimeError) -> bool:
    """Whether torch raised the error because another process has ended or does not answer, on this node or another."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)


def describe_lost_process(error: RuntimeError) -> str:
    """The message for a process that is lost to the others."""
    minutes = _COLLECTIVE_TIMEOUT // timedelta(minutes=1)
    silent = "Timed out" in str(error)
    found = f"has not answered for {minutes} minutes" if silent else "has ended"
    return f"expected all processes to go on, found that another one {found}"
