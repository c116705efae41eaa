"""Heads that turn features into the parameters of a normal distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpp_pyro.memory.blocks import MemoryLayout
from kpp_pyro.memory.sign_code import SignCode


class InPrecision(nn.Module):
    """Runs a network under autocast to `dtype` and returns float32; float32 and float64 run as they are."""

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> Any:
        """Return the network's tensor, or tuple of tensors."""
        if self.dtype not in (torch.bfloat16, torch.float16):
            return self.network(*inputs)
        with torch.autocast(inputs[0].device.type, dtype=self.dtype):
            outputs = self.network(*inputs)
        return outputs.float() if isinstance(outputs, Tensor) else tuple(output.float() for output in outputs)


def fast_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies in it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent from older releases
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.float32


def positive(raw: Tensor, smallest: float) -> Tensor:
    """Map raw network outputs to scales above `smallest`; zero maps to about 0.13 + smallest."""
    return smallest + F.softplus(_precise(raw) - 2)


def between(raw: Tensor, smallest: float, largest: float) -> Tensor:
    """Map raw network outputs to scales between two bounds; zero maps to the middle."""
    return smallest + (largest - smallest) * _precise(raw).sigmoid()


def _precise(raw: Tensor) -> Tensor:
    return raw if raw.dtype == torch.float64 else raw.float()


class LocScaleHead(nn.Module):
    """Features (..., width) to loc and scale (..., size)."""

    def __init__(self, width: int, size: int, smallest_scale: float) -> None:
        super().__init__()
        self.smallest_scale = smallest_scale
        self.linear = nn.Linear(width, 2 * size)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and scale."""
        loc, raw = self.linear(features).chunk(2, -1)
        return loc, positive(raw, self.smallest_scale)


class IdentityReading(nn.Module):
    """p(z | M, y): the location is the read itself, or the signs in it; the scale is learned, one per dimension."""

    def __init__(self, layout: MemoryLayout, smallest_scale: float, code: SignCode | None = None) -> None:
        super().__init__()
        self.code, self.packed = code, code is not None
        self.latent_size = layout.read_scalars * (code.signs if code else 1)
        self.smallest_scale = smallest_scale
        self.raw_scale = nn.Parameter(torch.zeros(self.latent_size))

    def forward(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and scale (..., D) of the latent, from blocks (..., R, C_m, h, w)."""
        scalars = block.flatten(-4)
        loc = self.code.unpack(scalars) if self.code else scalars
        return loc, positive(self.raw_scale, self.smallest_scale).expand_as(loc)


class NoReading(nn.Module):
    """p(z) = N(0, I), whatever is read: the control that says what the memory is worth."""

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_size = latent_size

    def forward(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and scale (..., D) of the latent, for blocks (..., R, C_m, h, w)."""
        loc = block.new_zeros(()).expand(*block.shape[:-4], self.latent_size)
        return loc, torch.ones_like(loc)
