"""The family `conv`: residual convolutions with GroupNorm, at 1/2 and 1/4 of the image's resolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kpp_pyro.networks.interface import NETWORKS, NetworkFamily
from kpp_pyro.networks.temporal_shift import temporal_shift

_WIDTH_MULTIPLE = 16  # for the 8 groups of GroupNorm and the temporal shift


class ResidualConv(nn.Module):
    """x + conv(gelu(conv(gelu(shift(norm(x)))))) on feature maps (B, T, channels, height, width)."""

    def __init__(self, channels: int, shift_fraction: float = 0.0) -> None:
        super().__init__()
        self.shift_fraction = shift_fraction
        self.norm = nn.GroupNorm(8, channels)
        self.widen = nn.Conv2d(channels, channels, 3, padding=1)
        self.project = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        batch = features.shape[:2]
        shifted = temporal_shift(self.norm(features.flatten(0, 1)).unflatten(0, batch), self.shift_fraction)
        change = self.project(F.gelu(self.widen(F.gelu(shifted.flatten(0, 1)))))
        return features + change.unflatten(0, batch)


class ConvEncoder(nn.Module):
    """f_enc: an episode (B, T, C, H, W) to one encoding per image (B, T, encoding size).

    The encoding size is 4 `width`.

    Args:
        image_shape: (C, H, W).
        width: number of channels at 1/2 resolution; twice as many at 1/4.
        depth: number of residual blocks at each resolution.
        shift_fraction: see `temporal_shift`.
    """

    encoding_size: int

    def __init__(self, image_shape: tuple[int, int, int], width: int, depth: int, shift_fraction: float) -> None:
        super().__init__()
        channels, height, image_width = image_shape
        self.encoding_size = 4 * width
        self.to_half = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        self.at_half = nn.Sequential(*(ResidualConv(width, shift_fraction) for _ in range(depth)))
        self.to_quarter = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.at_quarter = nn.Sequential(*(ResidualConv(2 * width, shift_fraction) for _ in range(depth)))
        self.head = nn.Sequential(
            nn.GroupNorm(8, 2 * width),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(2 * width * (height // 4) * (image_width // 4), self.encoding_size),
            nn.LayerNorm(self.encoding_size),
        )

    def forward(self, episode: Tensor) -> Tensor:
        """Encodings (B, T, encoding size) of episodes (B, T, C, H, W), with pixels in [0, 1]."""
        batch = episode.shape[:2]
        half = self.at_half(self.to_half(episode.flatten(0, 1) - 0.5).unflatten(0, batch))
        quarter = self.at_quarter(self.to_quarter(half.flatten(0, 1)).unflatten(0, batch))
        return self.head(quarter.flatten(0, 1)).unflatten(0, batch)


class ConvDecoder(nn.Module):
    """p(x | z): latents (..., D) to logits (..., C, H, W); the mirror image of `ConvEncoder`.

    Args:
        latent_size: D.
        image_shape: (C, H, W).
        width: number of channels at 1/2 resolution; twice as many at 1/4.
        depth: number of residual blocks at each resolution.
    """

    def __init__(self, latent_size: int, image_shape: tuple[int, int, int], width: int, depth: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        channels, height, image_width = image_shape
        quarter = (2 * width, height // 4, image_width // 4)
        self.stem = nn.Sequential(
            nn.Linear(latent_size, quarter[0] * quarter[1] * quarter[2]), nn.Unflatten(-1, quarter)
        )
        self.at_quarter = nn.Sequential(*(ResidualConv(2 * width) for _ in range(depth)))
        self.to_half = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
        self.at_half = nn.Sequential(*(ResidualConv(width) for _ in range(depth)))
        self.head = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.GELU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Logits (..., C, H, W) of latents (..., D)."""
        batch = latent.shape[:-1]
        flat = latent.reshape(1, -1, latent.shape[-1])  # (1, N, D), since residual blocks expect (B, T, ...)
        quarter = self.at_quarter(self.stem(flat))
        half = self.at_half(self.to_half(quarter.flatten(0, 1)).unsqueeze(0))
        return self.head(half.flatten(0, 1)).reshape(*batch, *self.image_shape)


NETWORKS["conv"] = NetworkFamily(
    ConvEncoder,
    ConvDecoder,
    {"tiny": (16, 1), "small": (32, 1), "medium": (64, 2), "base": (128, 3)},
    width_multiple=_WIDTH_MULTIPLE,
)
