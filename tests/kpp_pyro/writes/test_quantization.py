"""Rounded contents: how many values there are, how far each is off, and what stays exactly as it was."""

from __future__ import annotations

import pytest
import torch

from inference.ranges import LARGEST_BITS
from kpp_pyro.writes.quantization import Quantization

GRIDS = range(2, LARGEST_BITS + 1)  # bits with which zero is a level; with one bit there are two signs
all_grids = pytest.mark.parametrize("bits", GRIDS)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
EPISODE = torch.empty(0)  # which it does not look at


def contents(dtype=torch.float64):
    return torch.randn(3, 50, 100, dtype=torch.float64).mul(torch.tensor([1.0, 1e-4, 300.0])[:, None, None]).to(dtype)


def largest_of(content):
    return content.abs().amax(-1, keepdim=True)


def quantized(content, bits):
    return Quantization(bits)(content, EPISODE)


@all_grids
@dtypes
def test_so_many_bits_number_the_values_of_an_image(bits, dtype):
    rounded = quantized(contents(dtype), bits)
    assert rounded.dtype == dtype
    counts = [len(image.unique()) for image in rounded.flatten(0, 1)]
    assert max(counts) <= 2**bits - 1
    if bits <= 4:  # with which an image has enough scalars to meet most levels
        assert sum(counts) / len(counts) > 2 ** (bits - 1)


@all_grids
@dtypes
def test_errors_are_half_a_step_at_most_and_the_largest_is_kept(bits, dtype):
    content = contents(dtype)
    rounded, largest = quantized(content, bits), largest_of(content)
    step = largest / (2 ** (bits - 1) - 1)
    assert ((rounded - content).abs() <= step / 2 + 2 * torch.finfo(dtype).eps * largest).all()
    at = content.abs() == largest
    assert torch.equal(rounded[at], content[at]) and torch.equal(largest_of(rounded), largest)


@all_grids
@dtypes
def test_values_are_whole_steps(bits, dtype):
    content = contents(dtype)
    steps = quantized(content, bits) / largest_of(content) * (2 ** (bits - 1) - 1)
    assert ((steps - steps.round()).abs() < 0.02).all()


@all_grids
@dtypes
def test_rounding_again_changes_nothing(bits, dtype):
    rounded = quantized(contents(dtype), bits)
    assert torch.equal(quantized(rounded, bits), rounded)


@all_grids
def test_signs_are_kept_and_negatives_round_as_positives_do(bits):
    content = contents()
    rounded = quantized(content, bits)
    assert (rounded * content >= 0).all()
    assert torch.equal(quantized(-content, bits), -rounded)


def test_two_bits_are_nought_and_one_level_on_either_side():
    content = torch.tensor([[[-4.0, -2.1, -1.9, 0.0], [0.4, 0.6, 1.0, 0.1]]])
    assert quantized(content, 2).tolist() == [[[-4.0, -4.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]]


def test_a_finer_grid_is_closer_and_sixteen_bits_are_almost_exact():
    content = contents()
    errors = torch.stack(
        [((quantized(content, bits) - content) / largest_of(content)).square().mean((-2, -1)).sqrt() for bits in GRIDS]
    )
    assert (errors[1:] < 0.6 * errors[:-1]).all()
    assert (errors[-1] < 1e-5).all()


@dtypes
def test_one_bit_is_the_sign_and_the_mean_absolute_value(dtype):
    content = torch.tensor([[[-4.0, -2.0, 1.0, 0.0], [0.5, 0.5, 1.0, -2.0]]], dtype=dtype)
    rounded = quantized(content, 1)
    assert rounded.dtype == dtype
    assert rounded.tolist() == [[[-1.75, -1.75, 1.75, 1.75], [1.0, 1.0, 1.0, -1.0]]]


def test_no_other_multiple_of_the_signs_is_closer_than_that_of_one_bit():
    content = contents()
    rounded = quantized(content, 1)
    error = rounded - content
    torch.testing.assert_close((error * rounded).sum(-1), torch.zeros(3, 50).double())  # the projection on the signs
    assert torch.equal(rounded.sign(), content.sign())
    torch.testing.assert_close(quantized(rounded, 1), rounded, rtol=1e-12, atol=0)


@dtypes
@pytest.mark.parametrize("bits", [1, 4])
def test_every_image_is_rounded_for_itself_and_one_of_zeros_stays_so(bits, dtype):
    content = contents(dtype)
    content[1, 1:] = 0
    rounded = quantized(content, bits)
    assert rounded.isfinite().all() and not rounded[1, 1:].any()
    assert torch.equal(rounded[:, :1], quantized(content[:, :1], bits))
