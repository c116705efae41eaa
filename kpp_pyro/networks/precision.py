"""Half precision stops at the networks: what they return is float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


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
