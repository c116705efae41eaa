"""The choices a configuration leaves to the machine: device, precision, and whether steps are captured."""

from __future__ import annotations

import re

import torch

from inference.objectives import OBJECTIVES
from inference.processes import SINGLE_PROCESS, Processes, processes_here
from inference.runs.config import Config
from kpp_pyro.data import DATASETS
from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import whole_path
from models.build import available_device, dtype_of


def resolve(config: Config, processes: Processes = SINGLE_PROCESS) -> Config:
    """The configuration with its device, precision, T and folders resolved for this machine.

    Args:
        config: may leave the device and the precision at "auto".
        processes: those that run it together; each takes a GPU of its own.

    Raises:
        InputError: a device that this machine lacks, a step that cannot be captured, or a folder that cannot be.
    """
    device = resolve_device(config.device)
    if processes.count > 1:
        require_device_each(device)
    resolve_capture(config, device, processes.count)
    own = DATASETS[config.data.dataset].own  # how many of one's own images there are is known when they are loaded
    return config.replace(
        episode_length=config.data.episode_length if own else config.data.images_per_episode,
        data_dir=whole_path(config.data.data_dir),
        start_from=config.training.start_from and whole_path(config.training.start_from),
        device=str(device),
        precision=str(dtype_of(config.precision, device)).removeprefix("torch."),
    )


def is_open(name: str, value: object) -> bool:
    """Whether a value leaves the choice of a field to the machine or to the data: "auto", or T = None."""
    return value == "auto" or (name == "episode_length" and value is None)


def resolve_device(name: str) -> torch.device:
    """The device of a `--device` flag: cpu or cuda, and for auto a GPU if there is one.

    Raises:
        InputError: another kind of device, or one that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"--device {name:.100}: expected auto, cpu, cuda or cuda:NUMBER, found another device")
    return available_device(name, "--device")


def device_of_run(name: str) -> str:
    """The device that a run was made on, or "auto" on a machine that lacks it."""
    try:
        resolve_device(name)
    except InputError:
        return "auto"
    return name


def require_device_each(device: torch.device) -> None:
    """Raise InputError unless each process of this machine can have its own device of this type."""
    if device.index is not None:
        raise InputError(f"--device {device}: expected cpu, cuda or auto with several processes, found a device number")
    if device.type == "cuda" and processes_here() > torch.cuda.device_count():
        raise InputError(
            f"--device {device}: expected a GPU for each of the {processes_here()} processes on this machine, "
            f"found {torch.cuda.device_count()}"
        )


def resolve_capture(config: Config, device: torch.device, processes: int = 1) -> bool:
    """Whether to capture the step as a CUDA graph.

    Raises:
        InputError: `--capture on`, where a step cannot be captured.
    """
    capture, objective = config.training.capture, config.training.objective
    if device.type != "cuda":
        reason = f"a CUDA device, found {device.type}"
    elif not OBJECTIVES[objective].capturable:
        reason = f"--objective trace, found {objective}"
    elif processes > 1:
        reason = f"one process, found {processes}"
    else:
        return capture != "off"
    if capture == "on":
        raise InputError(f"--capture on: expected {reason}")
    return False
