"""Data augmentation by small random shifts and rotations."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

_OWN_SHARE = 0.25  # of an image that is moved together with others


def augment(
    pixels: Tensor,
    generator: torch.Generator,
    max_shift_pixels: float = 2.0,
    max_rotation_degrees: float = 10.0,
    together: int = 1,
) -> Tensor:
    """Shift and rotate each image by random amounts, uniform within the limits.

    Images that are moved together keep what they share: where and how large their strokes are. They have such amounts
    in common, and each image a quarter as much of its own besides.

    Args:
        pixels: float (N, C, H, W).
        generator: of the random amounts.
        max_shift_pixels: largest shift along each axis.
        max_rotation_degrees: largest rotation in each direction.
        together: number of successive images that are moved together, of which N is a multiple.

    Returns:
        Images of the same shape, type and device.
    """
    amounts = _uniform(len(pixels), generator)
    if together > 1:
        amounts = _OWN_SHARE * amounts + _uniform(len(pixels) // together, generator).repeat_interleave(together, 0)
    amounts = amounts.to(pixels.device, pixels.dtype)
    return warp(pixels, amounts[:, :2] * max_shift_pixels, amounts[:, 2] * math.radians(max_rotation_degrees))


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    """Numbers in [-1, 1), (count, 3)."""
    return torch.rand(count, 3, generator=generator, dtype=torch.float32, device=generator.device) * 2 - 1


def warp(pixels: Tensor, shift_pixels: Tensor, rotation_radians: Tensor) -> Tensor:
    """Rotate each image about its centre, then shift it; bilinear interpolation, zeros outside the image.

    Args:
        pixels: float (N, C, H, W).
        shift_pixels: (N, 2), to the right and down.
        rotation_radians: (N,), counter-clockwise as in torch.rot90.

    Returns:
        Images (N, C, H, W).
    """
    height, width = pixels.shape[-2:]
    cos, sin = rotation_radians.cos(), rotation_radians.sin()  # (N,)
    right, down = shift_pixels.unbind(-1)  # (N,)
    # The grid maps output to source coordinates: source = R^-1 (output - shift), with y pointing down.
    # affine_grid measures lengths in half widths and half heights, hence the ratios off the diagonal.
    to_x = [cos, -sin * height / width, (sin * down - cos * right) * 2 / width]
    to_y = [sin * width / height, cos, -(sin * right + cos * down) * 2 / height]
    inverse = torch.stack([torch.stack(to_x, -1), torch.stack(to_y, -1)], -2)  # (N, 2, 3)
    grid = affine_grid(inverse, list(pixels.shape), align_corners=False)  # (N, H, W, 2)
    return grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
