"""Balanced assignments of rows to columns: soft ones by Sinkhorn's iterations, and hard ones made of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST = 1e-30  # of a column's sum, of which the logarithm is taken


def sinkhorn(scores: Tensor, steps: int, potential: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Assign S rows softly to N columns, S / N to each.

        P = argmax_P  sum_sn P_sn (score_sn - ln P_sn)   where rows sum to one, and columns to S / N

    Its rows are the softmax of scores plus a potential v_n of every column, which is found by turns (Cuturi 2013). All
    is done in logarithms, so that scores may be sharp. It is the rows that are exact after the last step.

    Args:
        scores: (..., S, N), already divided by a temperature.
        steps: turns.
        potential: where to start, (..., 1, N), such as the result for scores that are much like these; zero if None.

    Returns:
        P (..., S, N), and the potential (..., 1, N).
    """
    rows, columns = scores.shape[-2:]
    found = scores.new_zeros(*scores.shape[:-2], 1, columns) if potential is None else potential
    for _ in range(steps):
        load = (scores + found).softmax(-1).sum(-2, keepdim=True)
        found = found - load.clamp(min=_LEAST).log() + math.log(rows / columns)
    return (scores + found).softmax(-1), found


def round_assignment(shares: Tensor) -> Tensor:
    """Assign every row to one column, no more than S / N to each, rounded up.

    Rows want the column that holds most of them. Those that are surest are served first; those that a column has no
    room for fill what the others leave, from the first column on. It takes no loop, and does not wait for a device.

    Args:
        shares: a soft assignment (..., S, N).

    Returns:
        Numbers of columns (..., S).
    """
    rows, columns = shares.shape[-2:]
    capacity = -(-rows // columns)
    sureness, wanted = shares.max(-1)
    order = sureness.argsort(dim=-1, descending=True, stable=True)
    wanted = wanted.gather(-1, order)  # from here on, rows are in this order
    wants = wanted.unsqueeze(-1) == torch.arange(columns, device=shares.device)  # (..., S, N)
    place_in_queue = wants.cumsum(-2).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)  # 1, 2, ...
    fits = place_in_queue <= capacity
    room = (capacity - (wants & fits.unsqueeze(-1)).sum(-2)).cumsum(-1)  # in the columns up to this one, (..., N)
    left = torch.searchsorted(room, (~fits).cumsum(-1))  # the first with room for as many as are left so far
    return torch.empty_like(wanted).scatter(-1, order, torch.where(fits, wanted, left))
