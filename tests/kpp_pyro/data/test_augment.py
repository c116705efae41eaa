"""Warping against torch.roll and torch.rot90, and the limits of the random one."""

from __future__ import annotations

import math

import torch

from kpp_pyro.data import augment, warp


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_zero_limits_are_the_identity() -> None:
    pixels = noise(4, 2, 9, 14)
    same = augment(pixels, torch.Generator().manual_seed(0), max_shift_pixels=0, max_rotation_degrees=0)
    torch.testing.assert_close(same, pixels, rtol=0, atol=1e-6)


def test_an_integer_shift_is_a_roll_with_zeros_from_outside() -> None:
    pixels = noise(3, 1, 8, 12).double()
    right_down = torch.tensor([[2, 1], [-3, 0], [0, -2]])
    shifted = warp(pixels, right_down.double(), torch.zeros(3).double())
    for image, moved, (right, down) in zip(pixels, shifted, right_down.tolist(), strict=True):
        expected = image.roll((down, right), (-2, -1))
        expected[:, : max(down, 0)] = expected[:, 8 + min(down, 0) :] = 0
        expected[:, :, : max(right, 0)] = expected[:, :, 12 + min(right, 0) :] = 0
        torch.testing.assert_close(moved, expected)


def test_a_quarter_turn_is_rot90() -> None:
    pixels = noise(2, 1, 7, 7).double()
    turned = warp(pixels, torch.zeros(2, 2).double(), torch.tensor([math.pi / 2, -math.pi / 2], dtype=torch.float64))
    torch.testing.assert_close(turned[0], pixels[0].rot90(1, (-2, -1)), rtol=0, atol=1e-9)
    torch.testing.assert_close(turned[1], pixels[1].rot90(-1, (-2, -1)), rtol=0, atol=1e-9)


def test_it_rotates_first_and_shifts_then_without_distorting_a_wide_image() -> None:
    pixels = torch.zeros(1, 1, 9, 21).double()
    pixels[..., 4, 13] = 1  # three to the right of the centre (4, 10)
    moved = warp(pixels, torch.tensor([[5.0, 1.0]]).double(), torch.tensor([math.pi / 2], dtype=torch.float64))
    expected = torch.zeros_like(pixels)
    expected[..., 4 - 3 + 1, 10 + 5] = 1  # turned three above the centre, then five right and one down
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


def test_shifts_stay_within_the_limit_and_differ_between_images() -> None:
    pixels = torch.zeros(500, 1, 15, 15)
    pixels[..., 7, 7] = 1
    moved = augment(pixels, torch.Generator().manual_seed(0), max_shift_pixels=2, max_rotation_degrees=0)
    place = torch.arange(15.0) - 7
    right, down = (moved.sum(axis) @ place for axis in (2, 3))  # centre of mass (500, 1)
    for shift in (right, down):
        assert shift.abs().max() <= 2 and shift.min() < -1.8 and shift.max() > 1.8


def test_images_that_move_together_differ_by_a_quarter_of_the_limit() -> None:
    pixels = torch.zeros(800, 1, 17, 17)
    pixels[..., 8, 8] = 1
    moved = augment(pixels, torch.Generator().manual_seed(0), 2, 0, together=8)
    place = torch.arange(17.0) - 8
    for axis in (2, 3):
        shift = (moved.sum(axis) @ place).view(100, 8)  # centre of mass
        apart = shift - shift.mean(1, keepdim=True)
        assert 0.4 < apart.abs().max() < 1  # each between -0.5 and 0.5
        assert shift.mean(1).max() > 1.6 and shift.mean(1).min() < -1.6 and shift.abs().max() <= 2.5


def test_the_generator_decides() -> None:
    pixels = noise(5, 1, 8, 8)
    first, again, other = (augment(pixels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
