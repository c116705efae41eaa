"""What it costs to write an episode to every memory, and to read its images back, as T grows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any

import pyro
import torch
from torch import Size, Tensor, nn

from experiments.shared.speed.contenders import configuration
from experiments.shared.speed.growth import slopes
from experiments.shared.speed.timing import alternate, backward, leaf, leaves
from inference.runs.config import Config
from kpp_pyro.writes import WRITES
from kpp_pyro.writes.interface import Encoding
from models.build import build
from models.memory_model import MemoryGuide
from models.pair import Pair
from models.registry import MODELS

ACTS = ("write", "read", "recall")
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
_IMAGE_SHAPE = (1, 28, 28)
_EPISODES, _CALLS = 4, 3  # B, and calls in one timing

Ways = dict[str, Callable[[], object]]


def measure_memories(device: str, repeats: int, lengths: Sequence[int] = LENGTHS) -> list[dict[str, Any]]:
    """Time of every act of every memory for episodes of every length, all memories in turns.

    A memory has as many scalars whatever T is: those of the defaults. Encoder, decoder and densities are left out.
    """
    programs = {name: build(config, _IMAGE_SHAPE, torch.device(device)) for name, config in configs(device)}
    points: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    with pyro.validation_enabled(False):
        for length in lengths:
            ways = {f"{act}, {name}": way for name, p in programs.items() for act, way in acts(p, length).items()}
            seconds = alternate(ways, repeats, _CALLS, torch.device(device))
            for name, found in points.items():
                times = {act: 1e3 * statistics.median(seconds[f"{act}, {name}"]) / _EPISODES for act in ACTS}
                found.append({"size": length, **{f"{act}_milliseconds": round(t, 4) for act, t in times.items()}})
    return [_line(name, program, points[name]) for name, program in programs.items()]


def configs(device: str) -> Iterator[tuple[str, Config]]:
    """A configuration of every memory, by its name: every model that has one, Kanerva++ with every write."""
    for model in MODELS:
        if model == "kanerva_plus_plus":
            yield from ((f"{model}, {write}", _config(device, write=write)) for write in WRITES)
        elif model != "vae":
            yield model, _config(device, model=model)


def _config(device: str, **changes: Any) -> Config:
    return configuration("mnist", device, **{"preset": "tiny", **changes})


def acts(program: Pair, length: int) -> Ways:
    """What is timed of episodes of T images, each act by itself, with noise for images.

    write: from features to contents, q(M|X) and a draw of it, forwards and backwards, as in a training step.
    read: q(y|X, M) of the images that were written, a draw of it and p(z|M, y), forwards and backwards likewise.
    recall: the same for cues, which are found by what they look like, forwards only: it is no part of training.
    """
    model, guide = program.model, program.guide
    with torch.no_grad():
        features = guide.encoder(torch.rand(_EPISODES, length, *model.image_shape, device=program.device).round())
        guide = _without_encoder(guide)
        encoding = guide.encode(features)
        memory = guide.memory_posterior(encoding).sample()

    def write() -> None:
        backward(guide.memory_posterior(guide.encode(leaf(features))).rsample())

    def read(found: Encoding, held: Tensor, cued: bool) -> tuple[Tensor, Tensor]:
        key = guide.key_posterior(found, held if cued or guide.keys_need_memory else None).rsample()
        prior = model.latent_prior(held, key)
        return prior.mean, prior.variance

    def read_back() -> None:
        backward(*read(leaves(encoding), leaf(memory), cued=False))

    return {"write": write, "read": read_back, "recall": torch.no_grad()(partial(read, encoding, memory, cued=True))}


def _without_encoder(guide: MemoryGuide) -> MemoryGuide:
    """The same guide, of the same parameters, for episodes that are features already."""
    found = copy(guide)
    found._modules = {**guide._modules, "encoder": nn.Identity()}
    return found


def _line(name: str, program: Pair, points: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "memory": name,
        "memory_scalars": Size(program.model.memory_shape).numel(),
        "episodes": _EPISODES,
        "points": points,
        **slopes(points, [f"{act}_milliseconds" for act in ACTS]),
    }
