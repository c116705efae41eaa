"""Time to write an episode to each memory, to read its images, and to recall them, against T."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import pyro
import torch
from torch import Size, Tensor, nn

from experiments.shared.speed.growth import slopes
from experiments.shared.speed.timing import alternate, backward, leaf, leaves
from experiments.shared.speed.workload import configuration
from inference.runs.config import Config
from kpp_pyro.writes import WRITES
from kpp_pyro.writes.interface import Encoding
from models.build import build
from models.memory_model import MemoryGuide
from models.pair import Pair
from models.registry import MODELS

OPERATIONS = ("write", "read", "recall")
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
_IMAGE_SHAPE = (1, 28, 28)
_EPISODES, _CALLS = 4, 3  # B, and calls in one timing

Timed = dict[str, Callable[[], object]]


def measure_memories(device: str, repeats: int, lengths: Sequence[int] = LENGTHS) -> list[dict[str, Any]]:
    """Time of each operation of each memory, for each episode length T; the memories are timed in turns.

    A memory has the default number of scalars for any T. Encoder, decoder and densities are not timed.
    """
    pairs = {name: build(config, _IMAGE_SHAPE, torch.device(device)) for name, config in configs(device)}
    points: dict[str, list[dict[str, float]]] = {name: [] for name in pairs}
    with pyro.validation_enabled(False):
        for length in lengths:
            timed = {f"{kind}, {name}": run for name, p in pairs.items() for kind, run in operations(p, length).items()}
            seconds = alternate(timed, repeats, _CALLS, torch.device(device))
            for name, line in points.items():
                times = {kind: 1e3 * statistics.median(seconds[f"{kind}, {name}"]) / _EPISODES for kind in OPERATIONS}
                line.append({"size": length, **{f"{kind}_milliseconds": round(t, 4) for kind, t in times.items()}})
    return [_line(name, pair, points[name]) for name, pair in pairs.items()]


def configs(device: str) -> Iterator[tuple[str, Config]]:
    """A configuration of each memory, by name: every model with a memory, and Kanerva++ with every write."""
    for model, kind in MODELS.items():
        if kind.has_blocks:
            yield from ((f"{model}, {write}", _config(device, write=write)) for write in WRITES)
        elif kind.has_memory:
            yield model, _config(device, model=model)


def _config(device: str, **changes: Any) -> Config:
    return configuration("mnist", device, **{"preset": "tiny", **changes})


def operations(pair: Pair, length: int) -> Timed:
    """The timed operations on B episodes of T random images.

    write: from features to contents, q(M|X) and a draw from it, forwards and backwards as in a training step.
    read: q(y|X, M) of written images, a draw from it and p(z|M, y), forwards and backwards.
    recall: the same for cues, whose keys depend on the memory, forwards only, since training does not use it.
    """
    model, guide = pair.model, pair.guide
    with torch.no_grad():
        features = guide.encoder(torch.rand(_EPISODES, length, *model.image_shape, device=pair.device).round())
        guide = _without_encoder(guide)
        encoding = guide.encode(features)
        memory = guide.memory_posterior(encoding).sample()

    def write() -> None:
        backward(guide.memory_posterior(guide.encode(leaf(features))).rsample())

    def read(encoded: Encoding, written: Tensor, cued: bool) -> tuple[Tensor, Tensor]:
        key = guide.key_posterior(encoded, written if cued or guide.keys_need_memory else None).rsample()
        prior = model.latent_prior(written, key)
        return prior.mean, prior.variance

    def read_back() -> None:
        backward(*read(leaves(encoding), leaf(memory), cued=False))

    return {"write": write, "read": read_back, "recall": torch.no_grad()(partial(read, encoding, memory, cued=True))}


def _without_encoder(guide: MemoryGuide) -> MemoryGuide:
    """A copy of the guide, for episodes that are already features."""
    other = deepcopy(guide)
    other.encoder.network = nn.Identity()
    return other


def _line(name: str, pair: Pair, points: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "memory": name,
        "memory_scalars": Size(pair.model.memory_shape).numel(),
        "episodes": _EPISODES,
        "points": points,
        **slopes(points, [f"{kind}_milliseconds" for kind in OPERATIONS]),
    }
