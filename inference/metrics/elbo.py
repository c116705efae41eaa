"""The mean ELBO of held-out images, its terms, and the memory gain."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from inference.errors import DivergenceError
from inference.importance.scoring import Batch, batches_of, previous_memories
from inference.processes import SINGLE_PROCESS, Processes
from inference.tracing import (
    ElboMeans,
    ElboTerms,
    PyroProgram,
    elbo_terms,
    own_randomness,
    terms_of,
    trace_pair,
    written_memory,
)


@torch.no_grad()
def mean_elbo(
    model: PyroProgram,
    guide: PyroProgram,
    episodes: Iterable[tuple[Tensor, Tensor]],
    seed: int = 0,
    processes: Processes = SINGLE_PROCESS,
    left_out: int = 0,
) -> dict[str, float]:
    """Average the ELBO terms and the memory gain over the counted images of many episodes.

    Memory gain = ELBO(own memory) - ELBO(memory of another episode), without the KL of a random memory. The other
    episode is the previous one; for the first episode, the last one in its batch. The gain is reported only if every
    image has such a memory, the memory has at least one scalar, and the gain is finite.

    Left-out ELBO: of the last `left_out` images of each episode, read from a memory of the episode's other images.

    The results depend neither on the number of processes nor on the random state, which is left unchanged.

    Args:
        model: Pyro model.
        guide: its guide.
        episodes: batches of images (B, T, C, H, W) and masks (B, T), True for images that count; the same in every
            process.
        seed: seed of all draws.
        processes: processes that share the batches.
        left_out: number of left-out images of an episode; reduced to half of a shorter episode.

    Returns:
        Averages by name, in nats per image.

    Raises:
        DivergenceError: the ELBO of a written or a left-out image is not finite.
    """
    share = map if processes.count == 1 else processes.map
    own, other, left_out_means = (ElboMeans() for _ in range(3))
    for batch in share(partial(_batch_means, model, guide, left_out), batches_of(episodes, seed)):
        for means, batch_means in zip((own, other, left_out_means), batch, strict=True):
            means.merge(batch_means)
    results = own.means().as_dict()
    if left_out_means.count:
        results["left_out_elbo_nats_per_image"] = left_out_means.means().elbo.item()
    if other.count == own.count:
        gain = (own.means().conditional_elbo - other.means().conditional_elbo).item()
        if math.isfinite(gain):
            results["memory_gain_nats_per_image"] = gain
    return results


def _batch_means(
    model: PyroProgram, guide: PyroProgram, left_out: int, batch: Batch
) -> tuple[ElboMeans, ElboMeans, ElboMeans]:
    """ELBO terms given the own memory and given the previous episode's, and those of left-out images."""
    own, other, left_out_means = ElboMeans(), ElboMeans(), ElboMeans()
    with own_randomness(batch.seed, batch.episode.device):
        traces = trace_pair(model, guide, batch.episode)
        _add_counted(own, terms_of(traces.log_probs()), batch.counted)
        before = None if batch.before is None else written_memory(guide, batch.before)
        others = previous_memories(traces.value("memory"), before)
        if others is not None:
            _add_counted(other, elbo_terms(model, guide, batch.episode, others), batch.counted, finite=False)
        kept = batch.episode.shape[1] - min(left_out, batch.episode.shape[1] // 2)
        if batch.counted[:, kept:].any():
            memory = written_memory(guide, batch.episode[:, :kept])
            terms = elbo_terms(model, guide, batch.episode[:, kept:], memory)
            _add_counted(left_out_means, terms, batch.counted[:, kept:])
    return own, other, left_out_means


def describe(results: dict[str, float]) -> str:
    """One line of text with quantities in nats per image."""
    named = ((name.removesuffix("_nats_per_image").replace("_", " "), value) for name, value in results.items())
    return ", ".join(f"{name} {value:.2f}" for name, value in named) + " nats per image"


def _add_counted(means: ElboMeans, terms: ElboTerms, counted: Tensor, finite: bool = True) -> None:
    if finite and not terms.elbo[counted].isfinite().all():
        raise DivergenceError(f"the ELBO is not finite ({describe(terms.mean().as_dict())})")
    means.add(terms, lambda value: value[counted].sum().cpu(), int(counted.sum()))
