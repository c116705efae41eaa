"""Timing functions in turns, so that other load of the machine affects all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from kpp_pyro.progress import show_progress
from kpp_pyro.writes.interface import Encoding

Seconds = dict[str, list[float]]
_LABEL_WIDTH = 60  # of a progress bar


def leaf(value: Tensor) -> Tensor:
    """The same values as a leaf of the autograd graph."""
    return value.detach().requires_grad_(value.is_floating_point())


def leaves(encoding: Encoding) -> Encoding:
    """The same encoding, with leaves for tensors."""
    tensors: dict[str, Any] = {name: leaf(value) for name, value in vars(encoding).items() if isinstance(value, Tensor)}
    return replace(encoding, **tensors)


def backward(*outputs: Tensor) -> None:
    """Run the backward pass of the sum of all outputs."""
    torch.autograd.backward([output.sum() for output in outputs])


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int, calls: int, device: torch.device) -> Seconds:
    """Time functions in turns; every other round is in reverse order, and the first round is a warm-up.

    Args:
        functions: functions by name.
        repeats: timings of each.
        calls: calls in one timing.
        device: synchronised before and after each timing.

    Returns:
        Seconds per call, `repeats` numbers for each name.
    """
    seconds: Seconds = {name: [] for name in functions}
    label = shorten("timing " + ", ".join(functions), _LABEL_WIDTH, placeholder=" ...")
    for repeat in show_progress(range(repeats + 1), label, leave=False):
        for name in list(functions)[:: 1 if repeat % 2 else -1]:
            synchronize(device)
            began = time.perf_counter()
            for _ in range(calls):
                functions[name]()
            synchronize(device)
            seconds[name].append((time.perf_counter() - began) / calls)
    return {name: values[1:] for name, values in seconds.items()}


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: list[float], scale: float = 1.0) -> dict[str, float]:
    """Median and quartiles of scaled values, rounded to three digits."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {
        "median": round(scale * middle, 3),
        "quartile_1": round(scale * low, 3),
        "quartile_3": round(scale * high, 3),
    }


def ratio(seconds: Seconds, name: str, base: str) -> dict[str, float]:
    """Median and quartiles of the ratio of two functions' neighbouring timings."""
    return spread([own / other for own, other in zip(seconds[name], seconds[base], strict=True)])


def medians(seconds: Seconds) -> dict[str, Any]:
    """Median and quartiles of every function, in milliseconds."""
    return {name: spread(values, 1e3) for name, values in seconds.items()}
