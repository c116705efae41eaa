"""Networks: plain modules that return tensors. The families and episode encoders that a configuration may name."""

from __future__ import annotations

from torch import nn

from kpp_pyro.networks.attention import ATTENTION_HEADS, AttentiveEncoder
from kpp_pyro.networks.conv import CONV
from kpp_pyro.networks.interface import EpisodeEncoder, ImageShape, NetworkFamily
from kpp_pyro.networks.mlp import MLP


def _independent(family: NetworkFamily, image_shape: ImageShape, width: int, depth: int, _shift: float) -> nn.Module:
    return family.encoder(image_shape, width, depth, 0.0)


def _shifting(family: NetworkFamily, image_shape: ImageShape, width: int, depth: int, shift: float) -> nn.Module:
    return family.encoder(image_shape, width, depth, shift)


def _attentive(family: NetworkFamily, image_shape: ImageShape, width: int, depth: int, _shift: float) -> nn.Module:
    return AttentiveEncoder(family.encoder(image_shape, width, depth, 0.0), depth)  # type: ignore[arg-type]


NETWORKS: dict[str, NetworkFamily] = {"mlp": MLP, "conv": CONV}
EPISODE_ENCODERS: dict[str, EpisodeEncoder] = {
    "independent": EpisodeEncoder(_independent),
    "temporal_shift": EpisodeEncoder(_shifting),
    "attention": EpisodeEncoder(_attentive, width_multiple=ATTENTION_HEADS),
}
