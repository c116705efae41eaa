"""The precision in which a device runs networks fastest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

_SIZE = 256  # rows and columns of the matrices of the measurement
_REPEATS = 4
_MARGIN = 1.5  # a product in bfloat16 has to be faster by this factor, since weights are cast to it


def fast_precision(device: torch.device) -> torch.dtype:
    """bfloat16 if the device is faster at it, else float32: a CPU is measured, once per process."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if _has_bfloat16() and _is_faster_in_bfloat16() else torch.float32
    return torch.float32


def _has_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16; on some that have, they are slow."""
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older releases
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


@cache
def _is_faster_in_bfloat16() -> bool:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside other programs, more would mostly wait for each other
    try:
        return product_seconds(torch.bfloat16) * _MARGIN < product_seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)


def product_seconds(dtype: torch.dtype) -> float:
    """The least time that one of a few products of two matrices takes: what interrupts one of them does not count."""
    matrix = torch.ones(_SIZE, _SIZE, dtype=dtype, device="cpu")
    return min(_seconds_of_product(matrix) for _ in range(_REPEATS))


def _seconds_of_product(matrix: torch.Tensor) -> float:
    began = time.perf_counter()
    torch.mm(matrix, matrix)
    return time.perf_counter() - began
