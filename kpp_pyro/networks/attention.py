"""Self-attention over the images of an episode: encodings that know their company, and no order of it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from kpp_pyro.errors import InputError
from kpp_pyro.networks.interface import EPISODE_ENCODERS, EpisodeEncoder, ImageShape, NetworkFamily
from kpp_pyro.networks.mlp import ResidualMlp

ATTENTION_HEADS = 4  # that the width of encodings has to be a multiple of


class Encoder(Protocol):
    """f_enc: an episode (B, T, C, H, W) to one encoding per image (B, T, encoding size)."""

    encoding_size: int

    def __call__(self, episode: Tensor) -> Tensor:
        """Encode episodes."""


class ResidualAttention(nn.Module):
    """x + attention(norm(x)) on vectors (B, T, width): the T images of an episode attend to each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        normed = self.norm(features)
        return features + self.attention(normed, normed, normed, need_weights=False)[0]


class AttentiveEncoder(nn.Module):
    """f_enc: `depth` layers of attention, each with a residual MLP, over the encodings of another encoder.

    Images have no positions. Around an encoder that sees each image alone (no temporal shift), permuting the images
    of an episode permutes their encodings: an episode is exchangeable, as in the model, yet encoded as a whole.

    Args:
        encoder: sees the images first.
        depth: layers.

    Raises:
        InputError: no layer, or an encoding size that the heads of a layer cannot share evenly.
    """

    encoding_size: int

    def __init__(self, encoder: Encoder, depth: int) -> None:
        super().__init__()
        width = encoder.encoding_size
        if depth < 1:
            raise InputError(f"attention: expected at least one layer, found {depth}")
        if width % ATTENTION_HEADS:
            raise InputError(f"attention: expected a multiple of {ATTENTION_HEADS} numbers of encodings, found {width}")
        self.encoding_size = width
        self.encoder = encoder
        layers = (nn.Sequential(ResidualAttention(width, ATTENTION_HEADS), ResidualMlp(width)) for _ in range(depth))
        self.layers = nn.Sequential(*layers, nn.LayerNorm(width))

    def forward(self, episode: Tensor) -> Tensor:
        """Encode episodes; pixels in [0, 1]."""
        return self.layers(self.encoder(episode))


def _attentive(family: NetworkFamily, image_shape: ImageShape, width: int, depth: int, _shift: float) -> nn.Module:
    return AttentiveEncoder(family.encoder(image_shape, width, depth, 0.0), depth)  # type: ignore[arg-type]


EPISODE_ENCODERS["attention"] = EpisodeEncoder(_attentive, width_multiple=ATTENTION_HEADS)
