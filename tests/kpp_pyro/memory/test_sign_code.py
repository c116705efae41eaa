"""Latents of few levels packed into scalars: what is unpacked is what was packed, even after small errors."""

from __future__ import annotations

import pytest
import torch

from kpp_pyro.memory.sign_code import MOST_SIGNS, SignCode

every_number = pytest.mark.parametrize("signs", [1, 2, 3, 8, MOST_SIGNS])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


every_code = pytest.mark.parametrize(
    "code", [SignCode(4, 2), SignCode(6, 3), SignCode(16, 4), SignCode(16, 8), SignCode(16, 16)], ids=str
)


def some_signs(number, dtype=torch.float64):
    return torch.where(torch.rand(3, 50, 4 * number) < 0.5, -1.0, 1.0).to(dtype)


def some_levels(code, dtype=torch.float64):
    number = torch.randint(code.levels, (3, 50, 4 * code.latents))
    return (2 * number.double() / (code.levels - 1) - 1).to(dtype)


@every_code
@dtypes
def test_levels_that_are_unpacked_are_those_that_were_packed(code, dtype):
    latent = some_levels(code, dtype)
    scalars = code.pack(latent)
    assert scalars.shape == (3, 50, 4) and (scalars.abs() < 1).all() and scalars.all()
    for moved in (0.0, 0.9, -0.9):
        torch.testing.assert_close(code.unpack(scalars + moved * 2.0**-code.signs), latent, atol=1e-6, rtol=0)


@every_code
def test_a_number_becomes_the_nearest_level_of_all(code):
    values = 1.5 * torch.randn(400, dtype=torch.float64)
    every = 2 * torch.arange(code.levels, dtype=torch.float64) / (code.levels - 1) - 1
    nearest = every[(values.unsqueeze(-1) - every).abs().argmin(-1)]
    torch.testing.assert_close(code.round(values), nearest)
    torch.testing.assert_close(code.of(values.atanh()[values.abs() < 1]), nearest[values.abs() < 1])


def test_rounded_values_have_the_gradient_of_the_values():
    values = torch.randn(40, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(40, dtype=torch.float64)
    (found,) = torch.autograd.grad((weight * SignCode(6, 3).round(values)).sum(), values)
    torch.testing.assert_close(found, weight)


@every_number
@dtypes
def test_what_is_unpacked_is_what_was_packed_even_if_moved_by_less_than_half_a_level(signs, dtype):
    code, latent = SignCode(signs), some_signs(signs, dtype)
    scalars = code.pack(latent)
    assert scalars.shape == (3, 50, 4)
    assert torch.equal(code.unpack(scalars), latent)
    for moved in (0.9, -0.9):
        assert torch.equal(code.unpack(scalars + moved * 2.0**-signs), latent)


@every_number
def test_the_levels_are_even_between_minus_and_plus_one_and_none_is_zero(signs):
    number = min(signs, 8)  # all combinations of them
    code = SignCode(number)
    combinations = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * number).view(-1, number)
    levels = code.pack(combinations).flatten()
    assert levels.numel() == 2**number
    expected = (2 * torch.arange(2**number, dtype=torch.float64) + 1) / 2**number - 1
    torch.testing.assert_close(levels, expected, atol=0, rtol=0)  # the first sign weighs most
    assert (levels.abs() >= 2.0**-number).all()


def test_only_the_signs_of_latents_are_packed():
    latent = torch.randn(3, 50, 24, dtype=torch.float64)
    code = SignCode(8)
    torch.testing.assert_close(code.pack(latent), code.pack(latent.sign()), atol=0, rtol=0)


def test_scalars_beyond_the_last_levels_are_read_as_these():
    code = SignCode(4)
    far = torch.tensor([-7.0, -1.0, 1.0, 9.0])
    assert code.unpack(far).view(4, 4).tolist() == [[-1.0] * 4, [-1.0] * 4, [1.0] * 4, [1.0] * 4]


def test_signs_have_the_gradient_of_the_hyperbolic_tangent():
    latent = torch.randn(40, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(40, dtype=torch.float64)
    signs = SignCode(8).of(latent)
    torch.testing.assert_close(signs, latent.sign())
    (found,) = torch.autograd.grad((weight * signs).sum(), latent)
    step = 1e-6
    difference = ((latent + step).tanh() - (latent - step).tanh()) / (2 * step)
    torch.testing.assert_close(found, weight * difference.detach(), atol=1e-8, rtol=1e-6)
