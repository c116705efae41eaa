"""Self-attention over the images of an episode, which does not depend on their order."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from kpp_pyro.errors import InputError
from kpp_pyro.networks.interface import EPISODE_ENCODERS, EpisodeEncoder, ImageShape, NetworkFamily
from kpp_pyro.networks.mlp import ResidualMlp

ATTENTION_HEADS = 4  # the encoding size must be a multiple of it


class Encoder(Protocol):
    """f_enc: an episode (B, T, C, H, W) to one encoding per image (B, T, encoding size)."""

    encoding_size: int

    def __call__(self, episode: Tensor) -> Tensor:
        """Encode an episode."""


class ResidualAttention(nn.Module):
    """x + attention(norm(x)) on vectors (B, T, width), over the T images or blocks of an episode.

    Args:
        width: size of the vectors, a multiple of `heads`.
        heads: number of heads.
        causal: whether vector t is changed by vectors 1 to t only.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        normed = self.norm(features)
        mask = _later(features) if self.causal else None
        attended = self.attention(normed, normed, normed, need_weights=False, attn_mask=mask, is_causal=self.causal)
        return features + attended[0]


def _later(features: Tensor) -> Tensor:
    """Which vectors come after each of T, and are hidden from it, bool (T, T)."""
    images = features.shape[1]
    return torch.ones(images, images, dtype=torch.bool, device=features.device).triu(1)


class AttentiveEncoder(nn.Module):
    """f_enc: `depth` layers of attention and a residual MLP, over the encodings of another encoder.

    There are no position embeddings. If the inner encoder encodes images independently (no temporal shift), permuting
    the images of an episode permutes their encodings: episodes are exchangeable, as in the model.

    Args:
        encoder: the inner encoder.
        depth: number of layers.

    Raises:
        InputError: `depth` below 1, or an encoding size that is no multiple of `ATTENTION_HEADS`.
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
        """Encodings (B, T, encoding size) of episodes (B, T, C, H, W), with pixels in [0, 1]."""
        return self.layers(self.encoder(episode))


def _attentive(family: NetworkFamily, image_shape: ImageShape, width: int, depth: int, _shift: float) -> nn.Module:
    return AttentiveEncoder(family.encoder(image_shape, width, depth, 0.0), depth)  # type: ignore[arg-type]


EPISODE_ENCODERS["attention"] = EpisodeEncoder(_attentive, width_multiple=ATTENTION_HEADS)
