"""Timing ways of doing something in turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from kpp_pyro.writes.interface import Encoding

Seconds = dict[str, list[float]]
_LABEL_WIDTH = 60  # of a progress bar


def leaf(value: Tensor) -> Tensor:
    """The same values, with nothing before them for a gradient to go to."""
    return value.detach().requires_grad_(value.is_floating_point())


def leaves(encoding: Encoding) -> Encoding:
    """The same encoding, of leaves."""
    found: dict[str, Any] = {name: leaf(value) for name, value in vars(encoding).items() if isinstance(value, Tensor)}
    return replace(encoding, **found)


def backward(*outputs: Tensor) -> None:
    """Take the gradient of everything."""
    torch.autograd.backward([output.sum() for output in outputs])


def alternate(ways: Mapping[str, Callable[[], object]], repeats: int, calls: int, device: torch.device) -> Seconds:
    """Seconds a call of every way, `repeats` times each: in turns, forwards and backwards, `calls` in one timing.

    The first round warms up and does not count.
    """
    seconds: Seconds = {name: [] for name in ways}
    label = shorten("timing " + ", ".join(ways), _LABEL_WIDTH, placeholder=" ...")
    for repeat in tqdm(range(repeats + 1), label, leave=False, dynamic_ncols=True):
        for name in list(ways)[:: 1 if repeat % 2 else -1]:
            synchronize(device)
            began = time.perf_counter()
            for _ in range(calls):
                ways[name]()
            synchronize(device)
            seconds[name].append((time.perf_counter() - began) / calls)
    return {name: values[1:] for name, values in seconds.items()}


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: list[float], scale: float = 1.0) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {
        "median": round(scale * middle, 3),
        "quartile_1": round(scale * low, 3),
        "quartile_3": round(scale * high, 3),
    }


def ratio(seconds: Seconds, name: str, base: str) -> dict[str, float]:
    """Median and quartiles of the ratio of neighbouring timings of two ways."""
    return spread([own / other for own, other in zip(seconds[name], seconds[base], strict=True)])


def medians(seconds: Seconds) -> dict[str, Any]:
    """Median and quartiles of every way, in milliseconds."""
    return {name: spread(values, 1e3) for name, values in seconds.items()}
