"""Binarization: its values, its mean, its seeds."""

from __future__ import annotations

import pytest
import torch

from kpp_pyro.errors import InputError
from kpp_pyro.likelihoods.bernoulli import binarize, binarize_once

GREY = torch.tensor([0, 1, 51, 128, 254, 255], dtype=torch.uint8)
DRAWS = 40_000


STATIC_BITS = [0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1]
"""What the fixed seed gives for 16 pixels of grey 128: if this changes, every reported number does."""


def assert_mean_is_grey(white: torch.Tensor) -> None:
    """Check the share of white in (DRAWS, 6) against the intensity, to five standard errors."""
    intensity = GREY.double() / 255
    error = (white.double().mean(0) - intensity).abs()
    assert (error <= 5 * (intensity * (1 - intensity) / DRAWS).sqrt()).all()


def test_dynamic_mean_converges_to_the_intensity() -> None:
    white = binarize(GREY.float().div(255).expand(DRAWS, -1), "dynamic", torch.Generator().manual_seed(0))
    assert white.dtype == torch.float32 and set(white.unique().tolist()) == {0.0, 1.0}
    assert_mean_is_grey(white)  # also: black stays black and white stays white, where the bound is zero


def test_static_mean_converges_to_the_intensity() -> None:
    white = binarize_once(GREY.expand(DRAWS, -1))
    assert white.dtype == torch.uint8 and set(white.unique().tolist()) == {0, 255}
    assert_mean_is_grey(white / 255)


def test_static_is_the_same_every_time_and_ignores_the_global_seed() -> None:
    images = torch.full((10, 1, 4, 4), 128, dtype=torch.uint8)
    torch.manual_seed(1)
    first = binarize_once(images)
    torch.manual_seed(2)
    assert torch.equal(first, binarize_once(images))
    assert first[0, 0].flatten().div(255).int().tolist() == STATIC_BITS


def test_dynamic_follows_its_generator() -> None:
    pixels = torch.full((1000,), 0.5)
    first, again, other = (binarize(pixels, "dynamic", torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_threshold_is_at_one_half() -> None:
    white = binarize(torch.tensor([0.0, 0.49, 0.5, 0.51, 1.0], dtype=torch.float64), "threshold")
    assert white.dtype == torch.float32 and white.tolist() == [0, 0, 0, 1, 1]


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"images: expected uint8 .*float32"):
        binarize_once(torch.zeros(3))
    with pytest.raises(InputError, match="expected 'dynamic' or 'threshold', found 'static'"):
        binarize(torch.zeros(3), "static")  # type: ignore[arg-type]
