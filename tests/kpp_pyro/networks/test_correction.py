"""The correction of a latent's posterior by what was read."""

from __future__ import annotations

import math

import torch

from kpp_pyro.networks.correction import LatentCorrection


def test_scales_change_by_a_bounded_factor_whatever_is_read() -> None:
    correction = LatentCorrection(5, 4, 3, 8)
    features, read = torch.randn(2, 6, 5), torch.randn(2, 6, 4)
    shift, near = correction(features, read)
    assert near.abs().max() < 0.1 and shift.abs().max() < 0.1  # at the start
    _, far = correction(1e6 * features, 1e6 * read)
    assert far.abs().max() <= 3 and far.abs().max() > 2.9


def test_small_changes_are_those_of_the_network() -> None:
    correction = LatentCorrection(5, 4, 3, 8)
    features, read = torch.randn(2, 6, 5), torch.randn(2, 6, 4)
    hidden = torch.cat([features, read], -1) @ correction.stem.weight.T + correction.stem.bias
    raw = (hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2) @ correction.head.weight.T + correction.head.bias
    shift, change = correction(features, read)
    torch.testing.assert_close(shift, raw[..., :3])
    torch.testing.assert_close(change, raw[..., 3:], rtol=1e-3, atol=1e-6)
