"""Small model/guide pairs, in float64 and without a temporal shift unless asked for."""

from __future__ import annotations

import torch

from inference.runs.config import Config, default_config, replace_flat
from models.build import build
from models.pair import Pair

IMAGE_SHAPE = (1, 16, 16)
SMALL = {"width": 16, "depth": 1, "precision": "float32"}
WRITES = ("allocate", "feed_forward")


def small_config(write: str = "allocate", networks: str = "mlp", **changes: object) -> Config:
    flags = [f"--write={write}", f"--networks={networks}"]
    memory = {"memory_channels": 2, "memory_height": 8, "memory_width": 8, "block_height": 2, "block_width": 2}
    encoder = {"episode_encoder": "temporal_shift", "temporal_shift": 0.0}
    return replace_flat(default_config(flags), {**SMALL, **memory, **encoder, **changes})


def small_program(write: str = "allocate", networks: str = "mlp", **changes: object) -> Pair:
    program = build(small_config(write, networks, **changes), IMAGE_SHAPE, torch.device("cpu"))
    program.model.double()
    program.guide.double()
    return program


def random_episodes(episodes: int = 3, images: int = 6, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    grey = torch.rand(episodes, images, *IMAGE_SHAPE, dtype=torch.float64, generator=generator)
    return (grey < 0.4).double()
