"""Speed of the scorer and of the loops of published code, and the peak memory of scoring."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference.importance.estimator import defensive_proposal, importance_score
from inference.tracing import elbo_terms
from kpp_pyro.progress import show_progress
from models.pair import Pair

_NAIVE_PASSES = 50  # of a loop in one timing; its speed does not depend on their number


def particle_images_per_second(pair: Pair, episode: Tensor, particles: int, repeats: int) -> dict[str, list[float]]:
    """Speed of the scorer and of each loop, timed in turns; one value per timing."""
    model, guide = pair.model, pair.guide
    one = episode[:1]
    images = episode.shape[0] * episode.shape[1]

    def scorer() -> int:
        importance_score(model, defensive_proposal(model, guide, episode), episode, particles=particles)
        return images * particles

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
    for _ in show_progress(range(repeats + 1), "timing", leave=False):  # the first round is a warm-up
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


def describe_scoring(content: dict[str, Any]) -> str:
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
