"""Learned addresses of a memory's rows (Wu et al. 2018a)."""

from __future__ import annotations

from torch import Tensor, nn


class RowAddresses(nn.Module):
    """w = A f(y): a projection of the key, compared with the address of every row."""

    def __init__(self, key_size: int, rows: int) -> None:
        super().__init__()
        self.key_size, self.rows = key_size, rows
        width = max(rows, key_size)
        self.projection = nn.Sequential(nn.Linear(key_size, width), nn.GELU(), nn.Linear(width, width))  # f
        self.addresses = nn.Linear(width, rows, bias=False)  # A
        nn.init.normal_(self.addresses.weight)  # rows far enough apart for what is written to stay apart

    def forward(self, key: Tensor) -> Tensor:
        """Keys (..., S) to weights (..., N)."""
        return self.addresses(self.projection(key))
