"""The family `patches`: tokens of 4x4 pixels, mixed by MLPs across and within tokens (Tolstikhin et al. 2021).

Pixels reach the encoding, and latents reach the pixels, along a path that is linear: the residual stream, which ends
without a norm. The MLPs correct it. A linear code of D numbers (principal components) is what a decoder has to beat.

The path starts as a code that keeps most of a photograph: the lowest frequencies of each patch (a discrete cosine
transform over channels, rows and columns), one feature map after the other, from the coarsest to the finest. Contents
start as the first D numbers of it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpp_pyro.networks.heads import start_near
from kpp_pyro.networks.interface import NETWORKS, NetworkFamily
from kpp_pyro.networks.mlp import ResidualMlp
from kpp_pyro.networks.temporal_shift import temporal_shift

_SIDE = 4  # pixels of a patch; image sides are multiples of it
_CODE_SIZE = 32  # numbers of a token in the encoding at most: two thirds of a patch in colour, all 16 of a grey one
_DECODED_SIZE = 16  # numbers of a token behind the latent, at least
_PIXEL_STD = 0.25  # about that of the pixels of photographs, in [0, 1]
_OFFSET = 0.3  # of squared frequencies: the mean of a patch has finite energy


def to_patches(images: Tensor) -> Tensor:
    """Patches (..., H/4 · W/4, 16 C) of images (..., C, H, W), row by row."""
    return F.pixel_unshuffle(images, _SIDE).flatten(-2).transpose(-1, -2)


def to_images(patches: Tensor, height: int, width: int) -> Tensor:
    """Images (..., C, height, width) of patches (..., height/4 · width/4, 16 C): the inverse of `to_patches`."""
    grid = height // _SIDE, width // _SIDE
    return F.pixel_shuffle(patches.transpose(-1, -2).unflatten(-1, grid), _SIDE)


class ResidualMixing(nn.Module):
    """x + W2 gelu(W1 shift(norm(x))) on tokens (B, T, N, width): each channel is mixed over the N tokens.

    Args:
        tokens: N.
        width: number of channels.
        shift_fraction: see `temporal_shift`. With 0, tokens may be (..., N, width).
    """

    def __init__(self, tokens: int, width: int, shift_fraction: float = 0.0) -> None:
        super().__init__()
        self.shift_fraction = shift_fraction
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(tokens, tokens)
        self.project = nn.Linear(tokens, tokens)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        shifted = temporal_shift(self.norm(features).transpose(-1, -2), self.shift_fraction)  # (B, T, width, N)
        return features + self.project(F.gelu(self.widen(shifted))).transpose(-1, -2)


class PatchEncoder(nn.Module):
    """f_enc: an episode (B, T, C, H, W) to one encoding per image (B, T, encoding size).

    The encoding is 32 maps of H/4 x W/4 numbers (grey images: 16), one map after the other: 2 H · W numbers in colour,
    H · W in grey.

    Args:
        image_shape: (C, H, W).
        width: number of channels of a token.
        depth: number of layers, each of which mixes tokens and then channels.
        shift_fraction: see `temporal_shift`.
    """

    encoding_size: int

    def __init__(self, image_shape: tuple[int, int, int], width: int, depth: int, shift_fraction: float) -> None:
        super().__init__()
        tokens, patch_size = _sizes(image_shape)
        code_size = min(_CODE_SIZE, patch_size)
        self.encoding_size = tokens * code_size
        self.stem = nn.Linear(patch_size, width)
        self.layers = _layers(tokens, width, depth, shift_fraction)
        self.head = nn.Linear(width, code_size)  # without a norm, which would drop the contrast of a patch
        start_near(self.stem.weight, frequencies(image_shape[0]))
        start_near(self.head.weight, torch.eye(code_size, width))

    def forward(self, episode: Tensor) -> Tensor:
        """Encodings (B, T, encoding size) of episodes (B, T, C, H, W), with pixels in [0, 1]."""
        patches = to_patches((episode - 0.5) / _PIXEL_STD)
        return self.head(self.layers(self.stem(patches))).mT.flatten(-2)


class PatchDecoder(nn.Module):
    """p(x | z): latents (..., D) to outputs (..., C, H, W), with C numbers for each pixel.

    A matrix maps all latents to a few numbers for each token, 16 or what all latents need: every latent reaches every
    token, at a cost that does not depend on the width.

    Args:
        latent_size: D.
        output_shape: (C, H, W), where C is the likelihood's number of channels.
        width: number of channels of a token.
        depth: number of layers, each of which mixes tokens and then channels.
    """

    def __init__(self, latent_size: int, output_shape: tuple[int, int, int], width: int, depth: int) -> None:
        super().__init__()
        self.size = output_shape[1:]
        tokens, patch_size = _sizes(output_shape)
        code_size = max(_DECODED_SIZE, math.ceil(latent_size / tokens))
        codes = nn.Linear(latent_size, tokens * code_size)
        start_near(codes.weight, torch.eye(tokens * code_size, latent_size))
        self.to_codes = nn.Sequential(codes, nn.Unflatten(-1, (code_size, -1)))
        self.stem = nn.Linear(code_size, width)
        self.layers = _layers(tokens, width, depth, 0.0)
        self.head = nn.Linear(width, patch_size)

    def forward(self, latent: Tensor) -> Tensor:
        """Outputs (..., C, H, W) of latents (..., D)."""
        tokens = self.stem(self.to_codes(latent).mT)  # (..., N, width)
        return to_images(self.head(self.layers(tokens)), *self.size)


def frequencies(channels: int) -> Tensor:
    """Orthogonal rows (16 C, 16 C) that map a patch to its frequencies, the most energetic of photographs first.

    Energy is taken to fall with the square of the frequency, and to be a tenth in differences of the channels. Rows are
    scaled so that all numbers then have the same variance.
    """
    from scipy.fft import dct

    over_channels, over_side = dct(np.eye(channels), norm="ortho", axis=0), dct(np.eye(_SIDE), norm="ortho", axis=0)
    rows = np.kron(over_channels, np.kron(over_side, over_side))
    channel, row, column = np.indices((channels, _SIDE, _SIDE)).reshape(3, -1)
    inverse_energy = (_OFFSET + row**2 + column**2) * np.where(channel > 0, 10, 1)
    order = np.argsort(inverse_energy, kind="stable")
    return torch.tensor((np.sqrt(inverse_energy)[:, None] * rows)[order], dtype=torch.float32)


def _sizes(image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Number of tokens, and of numbers in a patch."""
    channels, height, width = image_shape
    return height * width // _SIDE**2, channels * _SIDE**2


def _layers(tokens: int, width: int, depth: int, shift_fraction: float) -> nn.Sequential:
    mixers = (nn.Sequential(ResidualMixing(tokens, width, shift_fraction), ResidualMlp(width)) for _ in range(depth))
    return nn.Sequential(*mixers)


NETWORKS["patches"] = NetworkFamily(
    PatchEncoder, PatchDecoder, {"tiny": (64, 1), "small": (96, 2), "medium": (192, 3), "base": (512, 6)}, is_code=True
)
