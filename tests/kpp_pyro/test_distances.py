"""Distances between images: closed forms, invariances, and how the two kinds are related."""

from __future__ import annotations

import math

import pytest
import torch

from kpp_pyro.distances import SQUARED_ERROR, WRONG_PIXELS, distance_in, distance_of, psnr_db
from kpp_pyro.likelihoods import LIKELIHOODS

both = pytest.mark.parametrize("distance", [WRONG_PIXELS, SQUARED_ERROR], ids=lambda distance: distance.name)


def two_images(seed=0):
    return torch.rand(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_distance_of_two_levels_counts_pixels_and_that_of_more_is_squared():
    one, other = torch.tensor([0.0, 0.5, 0.6, 1.0]).view(1, 2, 2), torch.tensor([0.0, 0.6, 0.6, 0.2]).view(1, 2, 2)
    assert WRONG_PIXELS.between(one, other) == 2
    assert SQUARED_ERROR.between(one, other).item() == pytest.approx((0.1**2 + 0.8**2) / 4)
    assert distance_of(LIKELIHOODS["bernoulli"].levels) is WRONG_PIXELS
    assert distance_of(LIKELIHOODS["discretized_logistic"].levels) is SQUARED_ERROR


def test_of_binary_images_the_squared_error_is_the_share_of_wrong_pixels():
    one, other = two_images().round()
    assert WRONG_PIXELS.between(one, other) == SQUARED_ERROR.between(one, other) * one.numel()


def test_of_uniform_images_the_squared_error_is_a_sixth():
    one, other = torch.rand(2, 500, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    errors = SQUARED_ERROR.between(one, other)
    assert abs(errors.mean().item() - 1 / 6) < 5 * errors.std().item() / math.sqrt(500)


@both
def test_a_distance_is_symmetric_and_blind_to_the_order_of_pixels_and_to_negation(distance):
    one, other = two_images()
    expected = distance.between(one, other)
    order = torch.randperm(one.numel(), generator=torch.Generator().manual_seed(3))
    for pair in (
        (other, one),
        (1 - one, 1 - other),
        (one.flatten()[order].view_as(one), other.flatten()[order].view_as(one)),
    ):
        torch.testing.assert_close(distance.between(*pair), expected)
    assert distance.between(one, one) == 0 < expected


@both
def test_levels_and_bits_are_compared_as_the_intensities_that_they_stand_for(distance):
    levels = torch.arange(256).byte().view(1, 16, 16)
    black = torch.zeros(1, 16, 16)
    assert distance.between(levels, levels / 255) == 0
    assert distance.between(levels, black) == distance.between(levels / 255, black)
    assert distance.between(levels > 127, black) == distance.between((levels > 127).float(), black)
    assert WRONG_PIXELS.between(levels, black) == 128


def test_psnr_in_closed_form():
    assert [psnr_db(error) for error in (1.0, 0.1, 0.01)] == pytest.approx([0, 10, 20])
    assert psnr_db(0.0) == math.inf
    assert psnr_db(0.02) - psnr_db(0.04) == pytest.approx(10 * math.log10(2))


def test_the_fields_of_a_report_name_its_distance():
    assert distance_in(["strength", "cue_squared_error_per_dim"]) is SQUARED_ERROR
    assert distance_in(["strength", "cue_wrong_pixels_per_image"]) is WRONG_PIXELS
