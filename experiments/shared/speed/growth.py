"""Growth of step time and peak memory with T, B, the memory's size, the reads and the particles."""

from __future__ import annotations

import math
import statistics
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.shared.speed.timing import alternate
from experiments.shared.speed.workload import configuration, new_pair, pyro_trainer, random_images
from inference.importance.estimator import defensive_proposal, importance_score
from inference.runs.config import Config
from kpp_pyro.data import EpisodeSet

PARTICLES = (10, 100, 1_000, 10_000)
_MEBIBYTE = 2**20
_CALLS = 3  # steps in one timing
_QUANTITIES = ("milliseconds", "peak_mebibytes")


@dataclass(frozen=True)
class Axis:
    """A size that grows while the others stay.

    Attributes:
        label: name of the size.
        write: the write of the memory.
        sizes: values of the size, in units.
        changes: fields of the configuration that a value sets.
        unit: what a value of one counts for.
    """

    label: str
    write: str
    sizes: Sequence[int]
    changes: Callable[[int], dict[str, Any]]
    unit: int = 1


def axes(quick: bool) -> list[Axis]:
    """The axes of a training step; with the two smallest sizes only if quick."""
    kept = slice(0, 2) if quick else slice(None)
    doublings = [2**power for power in range(10)]
    lengths, batches, few = doublings[3:][kept], doublings[:7][kept], doublings[:5][kept]
    found = []
    for write in ("allocate", "feed_forward"):
        found += [
            Axis("T, images per episode", write, lengths, lambda length: {"episode_length": length}),
            Axis("B, episodes per step", write, batches, lambda batch: {"episodes_per_step": batch}),
            Axis("memory, scalars", write, [4**power for power in range(5)][kept], _memory_sides(write), unit=3_200),
            Axis("R, reads per image", write, few, lambda number: {"reads": number}),
        ]
    return found


def _memory_sides(write: str) -> Callable[[int], dict[str, Any]]:
    """Fields of a memory with a multiple of the default's scalars, in the same aspect ratio."""
    memory = Config.preset(write=write).memory
    sides = {"memory_height": memory.memory_height, "memory_width": memory.memory_width}
    return lambda times: {name: side * math.isqrt(times) for name, side in sides.items()}


def measure_growth(
    device: str, repeats: int, along: Sequence[Axis], particles: Sequence[int] = PARTICLES
) -> list[dict[str, Any]]:
    """Time and peak memory of an eager step along every axis, and of scoring by particles.

    The other sizes are those of MNIST with the tiny preset, B = 4, T = 32.
    """
    results = []
    for axis in along:
        points = [_step_point(axis, size, device, repeats) for size in axis.sizes]
        results.append(
            {"axis": axis.label, "write": axis.write, "of": "training step", "points": points, **slopes(points)}
        )
    if particles:
        points = [_score_point(k, device, repeats) for k in particles]
        results.append(
            {"axis": "K, particles", "write": "allocate", "of": "scoring", "points": points, **slopes(points)}
        )
    return results


def _base(device: str, write: str, **changes: Any) -> Config:
    return configuration(
        "mnist", device, **{"write": write, "preset": "tiny", "capture": "off", "episodes_per_step": 4, **changes}
    )


def _step_point(axis: Axis, size: int, device: str, repeats: int) -> dict[str, float]:
    config = _base(device, axis.write, **axis.changes(size))
    trainer = pyro_trainer(config, random_images(config, num_images=4_096))
    trainer.train_step()
    seconds = alternate({axis.label: trainer.train_step}, repeats, _CALLS, torch.device(config.device))[axis.label]
    return _point(size * axis.unit, seconds, peak_mebibytes(trainer.train_step, torch.device(config.device)))


def _score_point(particles: int, device: str, repeats: int) -> dict[str, float]:
    config = _base(device, "allocate")
    images = random_images(config, num_images=64)
    pair, on = new_pair(config, images), torch.device(config.device)
    episode, _ = next(EpisodeSet(images, config.data.images_per_episode).batches(2))

    def score() -> None:
        with torch.no_grad(), pyro.validation_enabled(False):
            proposal = defensive_proposal(pair.model, pair.guide, episode)
            importance_score(pair.model, proposal, episode, particles=particles)

    seconds = alternate({"scoring": score}, min(repeats, 3), 1, on)["scoring"]
    return _point(particles, seconds, peak_mebibytes(score, on))


def _point(size: int, seconds: list[float], mebibytes: float) -> dict[str, float]:
    return {
        "size": size,
        "milliseconds": round(1e3 * statistics.median(seconds), 3),
        "peak_mebibytes": round(mebibytes, 2),
    }


def peak_mebibytes(run: Callable[[], object], device: torch.device) -> float:
    """Peak memory of the tensors that a function allocates, in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / _MEBIBYTE
    with _LiveBytes() as live:
        run()
    return live.peak / _MEBIBYTE


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live tensors made inside, and their peak; torch counts them on CUDA only."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, inputs: Any = (), options: Any = None) -> Any:
        self._add(inputs, counted=False)  # tensors from outside
        made = operation(*inputs, **(options or {}))
        self._add(made)
        return made

    def _add(self, tensors: Any, counted: bool = True) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor):
                self._track(tensor.untyped_storage(), counted)

    def _track(self, storage: torch.UntypedStorage, counted: bool) -> None:
        number, size = id(storage), counted * storage.nbytes()
        if number in self._known:
            return
        self._known.add(number)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, number, size)

    def _remove(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.now -= size


def slopes(points: Sequence[dict[str, float]], quantities: Sequence[str] = _QUANTITIES) -> dict[str, float]:
    """Exponents p of quantities ~ size^p, between the two largest sizes."""
    before, last = points[-2:]
    step = math.log(last["size"] / before["size"])
    return {f"{name}_power": round(math.log(last[name] / before[name]) / step, 2) for name in quantities}
