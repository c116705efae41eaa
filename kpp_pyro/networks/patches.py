"""The family `patches`: tokens of 4x4 pixels, mixed by MLPs across and within tokens (Tolstikhin et al. 2021).

Pixels reach the encoding, and latents reach the pixels, along a path that is linear: the residual stream, which ends
without a norm. The MLPs correct it. A linear code of D numbers (principal components) is what a decoder has to beat.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kpp_pyro.networks.interface import NETWORKS, NetworkFamily
from kpp_pyro.networks.mlp import ResidualMlp
from kpp_pyro.networks.temporal_shift import temporal_shift

_SIDE = 4  # pixels of a patch; image sides are multiples of it
_CODE_SIZE = 16  # numbers of a token in the encoding, and behind the latent: a third of the 48 of a patch in colour
_PIXEL_STD = 0.25  # about that of the pixels of photographs, in [0, 1]


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

    The encoding is 16 numbers for each of the H/4 · W/4 tokens, one token after the other: H · W numbers.

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
        self.encoding_size = tokens * _CODE_SIZE
        self.stem = nn.Linear(patch_size, width)
        self.layers = _layers(tokens, width, depth, shift_fraction)
        self.head = nn.Linear(width, _CODE_SIZE)  # without a norm, which would drop the contrast of a patch

    def forward(self, episode: Tensor) -> Tensor:
        """Encodings (B, T, encoding size) of episodes (B, T, C, H, W), with pixels in [0, 1]."""
        patches = to_patches((episode - 0.5) / _PIXEL_STD)
        return self.head(self.layers(self.stem(patches))).flatten(-2)


class PatchDecoder(nn.Module):
    """p(x | z): latents (..., D) to outputs (..., C, H, W), with C numbers for each pixel.

    A matrix maps all latents to 16 numbers for each token: every latent reaches every token, at a cost that does not
    depend on the width. No more than H W latents can be told apart, as there are H W such numbers.

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
        self.to_codes = nn.Sequential(nn.Linear(latent_size, tokens * _CODE_SIZE), nn.Unflatten(-1, (-1, _CODE_SIZE)))
        self.stem = nn.Linear(_CODE_SIZE, width)
        self.layers = _layers(tokens, width, depth, 0.0)
        self.head = nn.Linear(width, patch_size)

    def forward(self, latent: Tensor) -> Tensor:
        """Outputs (..., C, H, W) of latents (..., D)."""
        tokens = self.stem(self.to_codes(latent))  # (..., N, width)
        return to_images(self.head(self.layers(tokens)), *self.size)


def _sizes(image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Number of tokens, and of numbers in a patch."""
    channels, height, width = image_shape
    return height * width // _SIDE**2, channels * _SIDE**2


def _layers(tokens: int, width: int, depth: int, shift_fraction: float) -> nn.Sequential:
    mixers = (nn.Sequential(ResidualMixing(tokens, width, shift_fraction), ResidualMlp(width)) for _ in range(depth))
    return nn.Sequential(*mixers)


NETWORKS["patches"] = NetworkFamily(
    PatchEncoder, PatchDecoder, {"tiny": (64, 1), "small": (96, 2), "medium": (192, 3), "base": (512, 6)}
)
