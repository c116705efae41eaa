"""Training or scoring by several processes at once, as `torchrun` starts them; one process is the usual case."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

_PATIENCE = timedelta(minutes=10)  # for a process that does not come to a meeting point


@dataclass(frozen=True)
class Processes:
    """This process among those of a job.

    Attributes:
        rank: number of this process, from 0; the first is the one that writes files.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

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
        return DistributedDataParallel(module, device_ids=on_gpu, broadcast_buffers=False)

    def gather(self, value: Any) -> list[Any]:
        """Values of all processes, in their order; every process has to call this, as all that follow."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over the processes."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return bool(self.sum(torch.tensor(float(flag))) > 0)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.any(False)


ALONE = Processes()


def launched_processes() -> int:
    """Number of processes that `torchrun` has started for this job; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Meet the other processes of the job, if there are any; on GPUs each process takes one, by its local rank."""
    count = launched_processes()
    if count == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=_PATIENCE)
    else:
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
