"""The temporal shift, against a loop over images and channels."""

from __future__ import annotations

import pytest
import torch

from kpp_pyro.networks.temporal_shift import temporal_shift

SHAPES = [(2, 5, 16), (2, 5, 16, 3, 4), (1, 2, 16), (3, 1, 16)]
FRACTIONS = [1 / 16, 1 / 8, 1 / 4, 1 / 2]


def shift_by_hand(features, channels):
    shifted = features.clone()
    episodes, images = features.shape[:2]
    for episode in range(episodes):
        for image in range(images):
            for channel in range(2 * channels):
                source = image - 1 if channel < channels else image + 1
                known = 0 <= source < images
                shifted[episode, image, channel] = features[episode, source, channel] if known else 0
    return shifted


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_it_equals_a_slow_loop(shape, fraction):
    features = torch.randn(shape, dtype=torch.float64)
    assert torch.equal(temporal_shift(features, fraction), shift_by_hand(features, round(16 * fraction)))


@pytest.mark.parametrize("shape", SHAPES)
def test_by_default_an_eighth_comes_from_each_neighbour(shape):
    features = torch.randn(shape)
    assert torch.equal(temporal_shift(features), temporal_shift(features, 1 / 8))


def test_the_ends_receive_zeros_and_the_other_channels_are_untouched():
    features = torch.rand(2, 5, 16, 3, 4) + 1  # nowhere zero
    shifted = temporal_shift(features, 1 / 8)
    assert not shifted[:, 0, :2].any() and not shifted[:, -1, 2:4].any()
    assert shifted[:, 1:, :2].all() and shifted[:, :-1, 2:4].all()
    assert torch.equal(shifted[:, :, 4:], features[:, :, 4:])


def test_only_the_values_pushed_over_the_ends_are_lost():
    features = torch.randn(2, 5, 16, dtype=torch.float64)
    lost = features[:, -1, :2].sum() + features[:, 0, 2:4].sum()
    torch.testing.assert_close(temporal_shift(features).sum(), features.sum() - lost)


@pytest.mark.parametrize("shape", [(), (7,), (2, 7), *SHAPES])
def test_zero_is_the_identity_on_any_shape(shape):
    features = torch.randn(shape)
    assert torch.equal(temporal_shift(features, 0), features)


def test_episodes_do_not_mix():
    features = torch.randn(3, 4, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(temporal_shift(features, 1 / 4)[1].sum(), features)
    assert not gradient[[0, 2]].any() and gradient[1].any()
