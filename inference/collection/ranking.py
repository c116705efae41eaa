"""The candidates of cues, and how well each explains its cue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_RANKS = (1, 4, 16)  # of the candidates whose distance from the best one, in nats, is a feature
FEATURES = 27
"""Number of features of a ranking: two errors, an excess, three leads, and their squares and products."""
_SMALLEST_ERROR = 1e-4  # of an exact copy: its logarithm is finite


@dataclass(frozen=True)
class Ranking:
    """The candidates of Q cues.

    Attributes:
        slots: of the candidates, best first, (Q, C); -1 for none.
        errors: their mean square differences from the cues over the known dimensions, (Q, C); infinite for none.
        heads: whether a candidate is the first of those of equal content, which stand side by side, bool (Q, C).
        own_error: that of the same networks without the memory, (Q,).
        excess: logarithm of the part of the best candidate's error in which it is brighter than the cue, over the
            other part, (Q,). A hole that is not known to be one makes it large.
        known: number of known dimensions of each cue, (Q,).
    """

    slots: Tensor
    errors: Tensor
    heads: Tensor
    own_error: Tensor
    excess: Tensor
    known: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Ranking]) -> Ranking:
        """The rankings of several groups of cues, with as many candidates, as one."""
        return cls(*map(torch.cat, zip(*(vars(part).values() for part in parts), strict=True)))

    def select(self, rows: Tensor) -> Ranking:
        """The rankings of some of the cues, int64 (n,)."""
        return Ranking(*(value[rows] for value in vars(self).values()))

    def distinct(self) -> Ranking:
        """The ranking of contents: of candidates of equal content, the first one alone."""
        order = (~self.heads).int().argsort(dim=-1, stable=True)
        kept = self.heads.gather(1, order)
        errors = self.errors.gather(1, order).masked_fill(~kept, torch.inf)
        return replace(self, slots=self.slots.gather(1, order).masked_fill(~kept, -1), errors=errors, heads=kept)

    def nats(self) -> Tensor:
        """By how many nats the best candidate explains each cue better than each candidate, (Q, C)."""
        log_error = self.errors.clamp(min=_SMALLEST_ERROR).log()
        return self.known.unsqueeze(-1) / 2 * (log_error - log_error[:, :1])

    def features(self) -> Tensor:
        """The features f, (Q, 27)."""
        log_error, own = (error.clamp(min=_SMALLEST_ERROR).log() for error in (self.errors[:, 0], self.own_error))
        nats = self.nats()
        last = self.errors.isfinite().sum(-1) - 1  # a small collection has fewer candidates
        leads = [nats.gather(1, last.clamp(0, rank).unsqueeze(-1)).squeeze(-1).log1p() for rank in _RANKS]
        features = torch.stack([log_error, own, self.excess, *leads], -1)
        first, second = torch.triu_indices(features.shape[-1], features.shape[-1])
        return torch.cat([features, features[:, first] * features[:, second]], -1)
