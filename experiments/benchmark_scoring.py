"""Time the scorer of a run against the loops of published code, and measure its peak memory.

python experiments/benchmark_scoring.py runs/mnist
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyro
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from experiments.shared.arguments import RunArguments
from experiments.shared.command_line import parse
from experiments.shared.script import run_script
from inference.importance.estimator import defensive_proposal, importance_score
from inference.ranges import Particles
from inference.tracing import elbo_terms, own_randomness
from kpp_pyro.files.run_folder import environment, write_json
from models.pair import Pair

_NAIVE_PASSES = 50  # of a loop in one timing; its speed does not depend on their number
_PEAK_PARTICLES = (100, 10_000)


@dataclass(frozen=True)
class Arguments(RunArguments):
    """Time the scorer of a run in turns with the loops of published code, on the same images.

    One loop encodes, writes, reads and decodes for every particle of every image; a faster one does so for every
    particle, with all images of an episode at once. Writes RUN/benchmark_scoring.json.
    """

    particles: Particles = 1000
    """K, draws per image of the scorer."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Timings of the scorer and of each loop; medians are compared."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    run = arguments.open_run()
    episode, _ = next(run.episodes.test.batches(2))
    with own_randomness(0, run.pair.device), pyro.validation_enabled(False):
        rates = particle_images_per_second(run.pair, episode, arguments)
        peaks = {
            str(k): peak_mebibytes(run.pair, episode, k) for k in tqdm(_PEAK_PARTICLES, "peak memory", leave=False)
        }
    content = {
        "particles": arguments.particles,
        "images": episode.shape[0] * episode.shape[1],
        "episode_length": episode.shape[1],
        "particle_images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "all_timings": rates,
        "peak_mebibytes_by_particles": peaks,
        **run.pair.sizes(),
        "precision": run.config.precision,
        "environment": environment(),
    }
    path = run.folder.path / "benchmark_scoring.json"
    write_json(path, content)
    print(describe(content))
    print(path)
    return 0


def particle_images_per_second(pair: Pair, episode: Tensor, arguments: Arguments) -> dict[str, list[float]]:
    """Speed of the scorer and of each loop, timed in turns; one value per timing."""
    model, guide = pair.model, pair.guide
    one = episode[:1]
    images = episode.shape[0] * episode.shape[1]

    def scorer() -> int:
        importance_score(model, defensive_proposal(model, guide, episode), episode, particles=arguments.particles)
        return images * arguments.particles

    def every_image() -> int:
        for _ in range(_NAIVE_PASSES):
            elbo_terms(model, guide, one)  # one image of it is counted, but the whole episode is written
        return _NAIVE_PASSES

    def every_episode() -> int:
        return every_image() * one.shape[1]

    scorers: dict[str, Callable[[], int]] = {
        "scorer": scorer,
        "loop over particles and images": every_image,
        "loop over particles": every_episode,
    }
    rates: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in tqdm(range(arguments.repeats + 1), "timing", leave=False):  # the first round is a warm-up
        for name, run in scorers.items():
            began = time.perf_counter()
            done = run()
            if episode.is_cuda:
                torch.cuda.synchronize()
            rates[name].append(done / (time.perf_counter() - began))
    return {name: values[1:] for name, values in rates.items()}


@torch.no_grad()
def peak_mebibytes(pair: Pair, episode: Tensor, particles: int) -> float:
    """Increase of the peak memory, of the GPU or of this process, while K particles are scored, in MiB.

    Where the peak cannot be reset (neither Linux nor CUDA), it counts only what exceeds all earlier peaks.
    """
    proposal = defensive_proposal(pair.model, pair.guide, episode)
    if episode.is_cuda:
        torch.cuda.reset_peak_memory_stats(episode.device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _peak_bytes(episode)
    importance_score(pair.model, proposal, episode, particles=particles)
    return round((_peak_bytes(episode) - before) / 2**20, 1)


def _peak_bytes(episode: Tensor) -> int:
    if episode.is_cuda:
        return torch.cuda.max_memory_allocated(episode.device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe(content: dict[str, Any]) -> str:
    """The measurements as text."""
    rates = content["particle_images_per_second"]
    lines = [f"K = {content['particles']:,}, {content['images']} images, {json.dumps(content['precision'])} networks"]
    lines += [
        f"  {name:<32} {rate:>12,.0f} particle-images per second  (scorer: {rates['scorer'] / rate:,.1f} times)"
        for name, rate in rates.items()
    ]
    peaks = content["peak_mebibytes_by_particles"].items()
    lines.append("  peak memory of scoring: " + ", ".join(f"{peak:.0f} MiB at K = {int(k):,}" for k, peak in peaks))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
