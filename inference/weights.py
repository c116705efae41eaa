"""Importance weights in a stream: their sum, effective number and tail, without holding them all."""

from __future__ import annotations

import math

import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

_LEAST_TAIL = 5  # weights below which a Pareto fit means nothing
_ROUNDING = 1e-12  # of weights relative to the largest


class WeightStream:
    """Sums over the log-weights of K particles, for data of any batch shape; chunks come in any size and order.

    Args:
        particles: K, the number of weights that will come.
        tail: whether to keep the largest O(sqrt(K)) of them, for k-hat.
    """

    def __init__(self, particles: int, tail: bool = False) -> None:
        self.held = 0
        self.log_sum = self.log_sum_of_squares = torch.tensor(-torch.inf, dtype=torch.float64)
        self._tail_size = math.ceil(min(0.2 * particles, 3 * math.sqrt(particles))) if tail else 0
        self._largest: Tensor | None = None

    def add(self, log_weights: Tensor) -> None:
        """Add a chunk (n, ...), in nats."""
        log_weights = log_weights.double()
        self.held += len(log_weights)
        self.log_sum = torch.logaddexp(self.log_sum, log_weights.logsumexp(0))
        self.log_sum_of_squares = torch.logaddexp(self.log_sum_of_squares, (2 * log_weights).logsumexp(0))
        if self._tail_size:
            seen = log_weights if self._largest is None else torch.cat([self._largest, log_weights])
            self._largest = seen.topk(min(len(seen), self._tail_size + 1), dim=0).values

    def log_mean(self) -> Tensor:
        """ln p-hat_K (...); the normaliser is the number of weights held."""
        return self.log_sum - math.log(self.held)

    def effective_sample_size(self) -> Tensor:
        """(sum w)^2 / sum w^2, between 1 and K, (...); zero where every weight is zero."""
        return (2 * self.log_sum - self.log_sum_of_squares).exp().nan_to_num(0.0)

    def monte_carlo_error(self) -> Tensor:
        """Standard error of `log_mean` in nats, by the delta method, (...); not known (NaN) from one weight."""
        if self.held == 1:
            return torch.full_like(self.log_sum, torch.nan)
        relative_variance = 1 / self.effective_sample_size() - 1 / self.held
        return (relative_variance.clamp(min=0) * self.held / (self.held - 1)).sqrt()

    def pareto_k(self) -> Tensor:
        """Shape k-hat of the generalized Pareto distribution of the largest weights, (...).

        Above 0.7 the estimate is not to be trusted (Vehtari, Simpson, Gelman, Yao & Gabry, "Pareto smoothed importance
        sampling", 2024); NaN with too few weights to tell.
        """
        if self._largest is None or self._tail_size < _LEAST_TAIL:
            return torch.full_like(self.log_sum, torch.nan)
        tails = self._largest.reshape(len(self._largest), -1).movedim(0, 1).cpu()  # (data, tail + 1), falling
        return torch.tensor([_tail_shape(tail) for tail in tails]).to(self.log_sum).view_as(self.log_sum)


def _tail_shape(largest: Tensor) -> float:
    """k-hat of the log-weights (M + 1,), largest first: of M exceedances over the last."""
    if not largest[0] > -torch.inf:
        return math.nan  # every weight is zero, or one is not a number
    relative = (largest - largest[0]).exp()
    exceedances = relative[:-1] - relative[-1]
    exceedances = exceedances[exceedances > _ROUNDING]
    if len(exceedances) == 0:
        return 0.0  # equal weights have no tail
    if len(exceedances) < _LEAST_TAIL:
        return math.inf  # a few weights are all there is
    try:
        return fit_generalized_pareto(exceedances)[0]
    except ZeroDivisionError:  # one weight dwarfs all others
        return math.inf
