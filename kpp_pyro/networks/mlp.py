"""The family `mlp`: residual MLPs with LayerNorm, much faster than convolutions on a CPU."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from kpp_pyro.networks.interface import NETWORKS, NetworkFamily
from kpp_pyro.networks.temporal_shift import temporal_shift


class ResidualMlp(nn.Module):
    """x + W2 gelu(W1 shift(norm(x))) on vectors (B, T, width), or (..., width) without a shift."""

    def __init__(self, width: int, shift_fraction: float = 0.0) -> None:
        super().__init__()
        self.shift_fraction = shift_fraction
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, width)
        self.project = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        shifted = self.norm(features)
        if self.shift_fraction:
            shifted = temporal_shift(shifted, self.shift_fraction)
        return features + self.project(F.gelu(self.widen(shifted)))


class MlpEncoder(nn.Module):
    """f_enc: an episode (B, T, C, H, W) to one encoding per image (B, T, width).

    Args:
        image_shape: (C, H, W).
        width: number of units, and the encoding size.
        depth: number of residual blocks.
        shift_fraction: see `temporal_shift`.
    """

    encoding_size: int

    def __init__(self, image_shape: tuple[int, int, int], width: int, depth: int, shift_fraction: float) -> None:
        super().__init__()
        self.encoding_size = width
        self.stem = nn.Linear(math.prod(image_shape), width)
        self.blocks = nn.Sequential(*(ResidualMlp(width, shift_fraction) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, episode: Tensor) -> Tensor:
        """Encodings (B, T, width) of episodes (B, T, C, H, W), with pixels in [0, 1]."""
        return self.norm(self.blocks(self.stem(episode.flatten(2) - 0.5)))


class MlpDecoder(nn.Module):
    """p(x | z): latents (..., D) to logits (..., C, H, W).

    Args:
        latent_size: D.
        image_shape: (C, H, W).
        width: number of units.
        depth: number of residual blocks.
    """

    def __init__(self, latent_size: int, image_shape: tuple[int, int, int], width: int, depth: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.stem = nn.Linear(latent_size, width)
        self.blocks = nn.Sequential(*(ResidualMlp(width) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, math.prod(image_shape)))

    def forward(self, latent: Tensor) -> Tensor:
        """Logits (..., C, H, W) of latents (..., D)."""
        return self.head(self.blocks(self.stem(latent))).unflatten(-1, self.image_shape)


NETWORKS["mlp"] = NetworkFamily(
    MlpEncoder, MlpDecoder, {"tiny": (256, 1), "small": (512, 1), "medium": (768, 1), "base": (2048, 4)}
)
