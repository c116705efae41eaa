"""What a configuration leaves to the machine it runs on: its device, its precision, and whether steps are captured."""

from __future__ import annotations

import torch

from inference.objectives import OBJECTIVES
from inference.processes import SINGLE_PROCESS, Processes, processes_here
from inference.runs.config import Config
from kpp_pyro.errors import InputError
from models.build import dtype_of


def resolve(config: Config, processes: Processes = SINGLE_PROCESS) -> Config:
    """The configuration with nothing left to be decided by the machine; "cuda" is each process's own.

    Raises:
        InputError: a device that is not there, or a step that cannot be captured.
    """
    device = resolve_device(config.device)
    if processes.count > 1:
        require_device_each(device)
    resolve_capture(config, device, processes.count)
    return config.replace(
        data_dir=config.data.data_dir.expanduser().resolve(),
        device=str(device),
        precision=str(dtype_of(config.precision, device)).removeprefix("torch."),
    )


def resolve_device(name: str) -> torch.device:
    """Return the device of a `--device` flag.

    Raises:
        InputError: a device that torch does not know, or that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: expected a device of this machine, found none ({reason})") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected cpu or cuda, found {device.type}")
    return device


def require_device_each(device: torch.device) -> None:
    """Raise InputError unless each process of this machine can have such a device of its own."""
    if device.index is not None:
        raise InputError(f"--device {device}: expected cpu, cuda or auto, as every process takes one, found a number")
    if device.type == "cuda" and processes_here() > torch.cuda.device_count():
        raise InputError(
            f"--device {device}: expected a GPU for each of the {processes_here()} processes on this machine, "
            f"found {torch.cuda.device_count()}"
        )


def resolve_capture(config: Config, device: torch.device, processes: int = 1) -> bool:
    """Return whether to capture the step as a CUDA graph.

    Raises:
        InputError: it is asked for and cannot be done.
    """
    wanted, objective = config.training.capture, config.training.objective
    if device.type != "cuda":
        reason = f"a CUDA device, found {device.type}"
    elif not OBJECTIVES[objective].capturable:
        reason = f"--objective trace, found {objective}"
    elif processes > 1:
        reason = f"one process, found {processes}"
    else:
        return wanted != "off"
    if wanted == "on":
        raise InputError(f"--capture on: expected {reason}")
    return False
