"""Heads: networks that return (loc, scale) of a normal; autocast wrappers.

`InPrecision`, `constant_weights`: autocast. `positive`, `between`: scales. `LocScaleHead`: features to a posterior.
`IdentityReading` and `NoReading`: a read block to the prior of a latent.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpp_pyro.memory.blocks import MemoryLayout
from kpp_pyro.memory.sign_code import SignCode


class InPrecision(nn.Module):
    """Runs a network under autocast to `dtype` and returns float32; with float32 and float64, without autocast.

    Args:
        network: returns a tensor or a tuple of tensors.
        dtype: bfloat16, float16, float32 or float64.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> Any:
        """The network's tensor, or tuple of tensors."""
        if self.dtype not in (torch.bfloat16, torch.float16):
            return self.network(*inputs)
        with torch.autocast(inputs[0].device.type, dtype=self.dtype):
            outputs = self.network(*inputs)
        return outputs.float() if isinstance(outputs, Tensor) else tuple(output.float() for output in outputs)


def constant_weights(device: torch.device) -> AbstractContextManager[object]:
    """Inside this context, `InPrecision` casts each weight once, not at every pass: for weights that do not change.

    Autocast keeps its casts until the outermost autocast ends.
    """
    return torch.autocast(device.type, enabled=False)


def positive(raw: Tensor, smallest: float) -> Tensor:
    """Map network outputs to scales above `smallest`: smallest + softplus(raw - 2), about smallest + 0.13 at 0."""
    return smallest + F.softplus(_at_least_float32(raw) - 2)


def between(raw: Tensor, smallest: float, largest: float) -> Tensor:
    """Map network outputs to scales between two bounds by a sigmoid; 0 maps to the middle."""
    return smallest + (largest - smallest) * _at_least_float32(raw).sigmoid()


def _at_least_float32(raw: Tensor) -> Tensor:
    return raw if raw.dtype == torch.float64 else raw.float()


@torch.no_grad()
def start_near(weight: Tensor, value: Tensor) -> None:
    """Start a random matrix near `value`, which may have fewer or more rows: a tenth of the random start stays."""
    rows = min(len(weight), len(value))
    weight.mul_(0.1)[:rows] += value[:rows].to(weight)


class LocScaleHead(nn.Module):
    """A linear layer from features (..., width) to loc and scale (..., size) each.

    Args:
        width: size of the features.
        size: size of loc and scale.
        smallest_scale: lower bound of the scale.
        from_code: whether loc starts near the first numbers of the features, see `NetworkFamily.is_code`.
    """

    def __init__(self, width: int, size: int, smallest_scale: float, from_code: bool = False) -> None:
        super().__init__()
        self.smallest_scale = smallest_scale
        self.linear = nn.Linear(width, 2 * size)
        if from_code:
            start_near(self.linear.weight, torch.eye(size, width))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale, (..., size) each."""
        loc, raw = self.linear(features).chunk(2, -1)
        return loc, positive(raw, self.smallest_scale)


class IdentityReading(nn.Module):
    """p(z | M, y) whose location is the read, or the signs packed in it, with one learned scale per dimension.

    Args:
        layout: of the memory.
        smallest_scale: lower bound of the scale.
        code: sign code of the blocks' scalars; None if they are the latents themselves.
    """

    def __init__(self, layout: MemoryLayout, smallest_scale: float, code: SignCode | None = None) -> None:
        super().__init__()
        self.code, self.packed = code, code is not None
        self.latent_size = layout.read_scalars * (code.latents if code else 1)
        self.smallest_scale = smallest_scale
        self.raw_scale = nn.Parameter(torch.zeros(self.latent_size))

    def forward(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale of the latent, (..., D) each, from blocks (..., R, C_m, h, w)."""
        scalars = block.flatten(-4)
        loc = self.code.unpack(scalars) if self.code else scalars
        return loc, positive(self.raw_scale, self.smallest_scale).expand_as(loc)


class NoReading(nn.Module):
    """p(z) = N(0, I), which does not depend on the read: a control that measures the benefit of the memory.

    Args:
        latent_size: D.
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_size = latent_size

    def forward(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale of the latent, (..., D) each, for blocks (..., R, C_m, h, w)."""
        loc = block.new_zeros(()).expand(*block.shape[:-4], self.latent_size)
        return loc, torch.ones_like(loc)
