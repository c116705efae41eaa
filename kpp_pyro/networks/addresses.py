"""Learned addresses of a memory's rows (Wu et al. 2018a)."""

from __future__ import annotations

from torch import Tensor, nn


class RowAddresses(nn.Module):
    """w = A f(y): the row weights of a key y, with a learned address (a row of A) for every row of the memory.

    Args:
        key_size: S, the size of a key.
        rows: N, the number of the memory's rows.
    """

    def __init__(self, key_size: int, rows: int) -> None:
        super().__init__()
        self.key_size, self.rows = key_size, rows
        width = max(rows, key_size)
        self.projection = nn.Sequential(nn.Linear(key_size, width), nn.GELU(), nn.Linear(width, width))  # f
        self.addresses = nn.Linear(width, rows, bias=False)  # A
        nn.init.normal_(self.addresses.weight)  # large enough to keep the contents of different rows separate

    def forward(self, key: Tensor) -> Tensor:
        """Row weights (..., N) of keys (..., S)."""
        return self.addresses(self.projection(key))
