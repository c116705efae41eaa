"""Small model/guide pairs, in float64 and without a temporal shift unless asked for."""

from __future__ import annotations

import torch
from torch import nn

from inference import Config, Pair, build

IMAGE_SHAPE = (1, 16, 16)
SMALL = {"width": 16, "depth": 1, "precision": "float32"}
WRITES = ("allocate", "feed_forward")


def small_config(write: str = "allocate", networks: str = "mlp", **changes: object) -> Config:
    """A small configuration: the presets of the write, and no others'."""
    memory = {"memory_channels": 2, "memory_height": 8, "memory_width": 8, "block_height": 2, "block_width": 2}
    if changes.get("model", "kanerva_plus_plus") != "kanerva_plus_plus":
        memory = {}  # of blocks; the others have rows
    encoder = {"episode_encoder": "temporal_shift", "temporal_shift": 0.0}
    if changes.get("episode_encoder", "temporal_shift") != "temporal_shift":
        encoder = {}
    return Config.preset(write=write, networks=networks).replace(**{**SMALL, **memory, **encoder, **changes})


def small_pair(write: str = "allocate", networks: str = "mlp", **changes: object) -> Pair:
    return build(small_config(write, networks, **changes), IMAGE_SHAPE).double()


def off_start(pair: Pair) -> Pair:
    """The pair, with a learned prior of memories away from its start, where all but its components have no gradient."""
    generator = torch.Generator().manual_seed(4)
    for parameter in (getattr(pair.model, "block_prior", None) or nn.Module()).parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return pair


class RandomEpisodes:
    """A source of training episodes of T images, the same in every step."""

    generators = ()

    def __init__(self, images: int = 6) -> None:
        self.images = images

    def draw(self, num_episodes: int) -> torch.Tensor:
        return random_episodes(num_episodes, self.images).float()

    def render(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn


def random_episodes(episodes: int = 3, images: int = 6, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    grey = torch.rand(episodes, images, *IMAGE_SHAPE, dtype=torch.float64, generator=generator)
    return (grey < 0.4).double()
