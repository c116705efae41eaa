"""From stored bytes to the binary images of a training step, on whatever device they are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kpp_pyro.data.augment import augment
from kpp_pyro.data.binarize import Binarization, binarize, binarize_once, require_binarization
from kpp_pyro.errors import InputError

PixelRule = Literal["dynamic", "threshold"]  # what is left to do to pixels that may have been binarized once
_LARGEST_SEED = 2**63


class Rendering:
    """Moves images a little if asked to, and binarizes them, with a generator of its own.

    Args:
        rule: how to binarize.
        augmented: shift and rotate the images at random before they are binarized.
        seed: of a run.
        rank: process of the run; each draws pixels of its own.
        device: of the images.
    """

    def __init__(self, rule: PixelRule, augmented: bool, seed: int, rank: int, device: torch.device) -> None:
        self.rule, self.augmented = rule, augmented
        own_seed = (1_000_003 * (seed + 1) + rank) % _LARGEST_SEED  # not the seed of the order
        self.generator = torch.Generator(device).manual_seed(own_seed)

    def __call__(self, images: Tensor) -> Tensor:
        """Render bytes (B, T, C, H, W) as float32 of the same shape in {0, 1}."""
        pixels = images.float() / 255
        if self.augmented:
            pixels = augment(pixels.flatten(0, 1), self.generator).unflatten(0, images.shape[:2])
        return binarize(pixels, self.rule, self.generator)

    def load_state(self, state: Tensor) -> None:
        """Go on from the generator's state.

        Raises:
            InputError: a state of another kind of device.
        """
        own, given = self.generator.get_state(), state.cpu()
        if given.dtype != own.dtype or given.shape != own.shape:
            raise InputError(
                f"Sampler state 'pixels': expected {len(own)} bytes of a {self.generator.device.type} "
                f"device, found {given.dtype} {tuple(given.shape)} from another kind of device"
            )
        self.generator.set_state(given)


def prepare(images: Tensor, binarization: Binarization) -> tuple[Tensor, PixelRule]:
    """Return the bytes (N, C, H, W) to keep of a set, and how to binarize what is drawn of them.

    Raises:
        InputError: an unknown binarization.
    """
    require_binarization(binarization)
    if binarization == "static":
        return binarize_once(images), "threshold"
    return images, binarization


def is_black_and_white(images: Tensor) -> bool:
    """Whether a set (N, C, H, W) knows no grey."""
    return bool(((images == 0) | (images == 255)).all())
