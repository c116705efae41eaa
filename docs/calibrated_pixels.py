"""Likelihoods of images given reconstructions of them, fitted to other images: each pixel has parameters of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kpp_pyro.likelihoods.bernoulli import log_bernoulli
from kpp_pyro.likelihoods.logistic_image import log_probability

PENALTY = 0.1  # half of it times the squared slope and intercept is added to the costs that a Bernoulli is fitted to
NEWTON_STEPS = 12
SHARES = torch.logspace(-0.7, 0.2, 8)  # of a residual's standard deviation, tried as the scale of its logistic
_EDGE = 255 / 2  # the last level, from the middle of the range


@dataclass(frozen=True)
class CalibratedBernoulli:
    """Pixel d of a binary image is 1 with probability sigmoid(slope_d r_d + intercept_d), given a reconstruction r.

    Attributes:
        slope: (D,).
        intercept: (D,).
    """

    slope: Tensor
    intercept: Tensor

    @classmethod
    def fit(cls, levels: Tensor, reconstructions: Tensor) -> CalibratedBernoulli:
        """Logistic regression of every pixel of levels 0 and 1 on its reconstruction, (N, D), by Newton's method."""
        inputs = torch.stack([reconstructions, torch.ones_like(reconstructions)])  # (2, N, D)
        weights = inputs.new_zeros(2, inputs.shape[-1])
        penalty = PENALTY * torch.eye(2, dtype=inputs.dtype)
        for _ in range(NEWTON_STEPS):
            probability = (weights.unsqueeze(1) * inputs).sum(0).sigmoid()  # (N, D)
            gradient = ((probability - levels) * inputs).sum(1) + PENALTY * weights  # (2, D)
            curvature = torch.einsum("ind,nd,jnd->dij", inputs, probability * (1 - probability), inputs)
            weights = weights - torch.linalg.solve(curvature + penalty, gradient.T).T
        return cls(*weights)

    def costs(self, levels: Tensor, reconstructions: Tensor) -> Tensor:
        """-ln P of images (N, D), in nats, (N,)."""
        return -log_bernoulli(self.slope * reconstructions + self.intercept, levels).sum(1)


@dataclass(frozen=True)
class CalibratedLogistic:
    """Dimension d of an image of 256 levels is a discretized logistic around a reconstruction, with scale s_d.

    Attributes:
        scales: in grey levels, (D,).
    """

    scales: Tensor

    @classmethod
    def fit(cls, levels: Tensor, reconstructions: Tensor) -> CalibratedLogistic:
        """The scales, of `SHARES`, with the largest likelihood of levels from 0 to 255, (N, D)."""
        deviations = (levels - reconstructions).std(0)
        tried = [cls(share * deviations)._costs(levels, reconstructions).mean(0) for share in SHARES]
        return cls(SHARES[torch.stack(tried).argmin(0)] * deviations)

    def costs(self, levels: Tensor, reconstructions: Tensor) -> Tensor:
        """-ln P of images (N, D), in nats, (N,)."""
        return self._costs(levels, reconstructions).sum(1)

    def _costs(self, levels: Tensor, reconstructions: Tensor) -> Tensor:
        """-ln P of dimensions, (N, D)."""
        return -log_probability(levels - _EDGE, reconstructions - _EDGE, self.scales, _EDGE)
