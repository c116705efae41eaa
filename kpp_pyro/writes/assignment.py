"""Balanced assignment of rows to columns: soft by Sinkhorn's iterations, and rounded to one column per row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SMALLEST_SUM = 1e-30  # of a column, before its logarithm is taken


def sinkhorn(scores: Tensor, steps: int, potential: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Soft assignment of S rows to N columns, S / N rows to each column (Sinkhorn's iterations, Cuturi 2013).

        P = argmax_P  sum_sn P_sn (score_sn - ln P_sn)   where rows sum to one, and columns to S / N

    P is the softmax over columns of score_sn + v_n, with a potential v_n of every column. Each step updates v from the
    sums of the columns, in logarithms, so that scores may be large. After the last step, rows sum exactly to one and
    columns approximately to S / N.

    Args:
        scores: (..., S, N), already divided by a temperature.
        steps: number of steps.
        potential: initial v, (..., 1, N), such as the result for similar scores; zero if None.

    Returns:
        P, (..., S, N), and v, (..., 1, N).
    """
    rows, columns = scores.shape[-2:]
    current = scores.new_zeros(*scores.shape[:-2], 1, columns) if potential is None else potential
    for _ in range(steps):
        sums = (scores + current).softmax(-1).sum(-2, keepdim=True)
        current = current - sums.clamp(min=_SMALLEST_SUM).log() + math.log(rows / columns)
    return (scores + current).softmax(-1), current


def round_assignment(shares: Tensor) -> Tensor:
    """Round a soft assignment to one column per row, with at most ceil(S / N) rows per column.

    Each row prefers the column of its largest share. Rows are assigned in decreasing order of this share. When the
    preferred column is full, a row gets the first column with free capacity. There is no loop over rows and no device
    synchronisation.

    Args:
        shares: a soft assignment, (..., S, N).

    Returns:
        Column number of each row, (..., S).
    """
    rows, columns = shares.shape[-2:]
    capacity = -(-rows // columns)
    largest, preferred = shares.max(-1)
    order = largest.argsort(dim=-1, descending=True, stable=True)
    preferred = preferred.gather(-1, order)  # from here on, rows are in this order
    prefers = preferred.unsqueeze(-1) == torch.arange(columns, device=shares.device)  # (..., S, N)
    position = prefers.cumsum(-2).gather(-1, preferred.unsqueeze(-1)).squeeze(-1)  # 1, 2, ... in the column
    fits = position <= capacity
    free = (capacity - (prefers & fits.unsqueeze(-1)).sum(-2)).cumsum(-1)  # in columns 0 to n, (..., N)
    other = torch.searchsorted(free, (~fits).cumsum(-1))  # the k-th row that does not fit gets the k-th free place
    return torch.empty_like(preferred).scatter(-1, order, torch.where(fits, preferred, other))
