"""The ELBO of every image, term by term, and what the memory contributes to it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from inference.errors import DivergenceError
from inference.importance.scoring import Batch, gather, previous_memories, shard, synced
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

    The memory gain is the ELBO given the episode's own memory minus the ELBO given the memory of the episode before it
    (the first takes the last of its batch). A memory's own KL, if it is random, is in the ELBO and not in the gain.
    With a single episode, or a memory of no scalars, there is no other memory and no gain is reported, nor where the
    ELBO given another memory is beyond all numbers: how badly strangers are read is no reason to stop. The ELBO of
    images left out is that of the last ones, given a memory that only the images before them wrote.
    The results do not depend on how many processes share the batches, nor on the random state, which stays as it is.

    Args:
        model: Pyro model.
        guide: its guide.
        episodes: batches of images (B, T, C, H, W) and of which of them count (B, T); the same in every process.
        seed: of the noise.
        processes: those that share the batches.
        left_out: images of an episode to leave out for that, at most half of them.

    Returns:
        Quantities by their full name, in nats per image.

    Raises:
        DivergenceError: an ELBO of images that were written, or were left out, is not finite.
    """
    with synced(processes):
        found = [_evaluate_batch(model, guide, batch, left_out) for batch in shard(episodes, seed, processes)]
    own, other, strangers = (ElboMeans() for _ in range(3))
    for batch in gather(found, processes):
        for means, of_batch in zip((own, other, strangers), batch, strict=True):
            means.merge(of_batch)
    results = own.means().as_dict()
    if strangers.count:
        results["left_out_elbo_nats_per_image"] = strangers.means().elbo.item()
    if other.count == own.count:
        gain = (own.means().conditional_elbo - other.means().conditional_elbo).item()
        if math.isfinite(gain):
            results["memory_gain_nats_per_image"] = gain
    return results


def _evaluate_batch(
    model: PyroProgram, guide: PyroProgram, batch: Batch, left_out: int
) -> tuple[ElboMeans, ElboMeans, ElboMeans]:
    """ELBO terms with the own memory, with that of the episode before if there is one, and of images left out."""
    own, other, strangers = ElboMeans(), ElboMeans(), ElboMeans()
    with own_randomness(batch.seed, batch.episode.device):
        pair = trace_pair(model, guide, batch.episode)
        _add_counted(own, terms_of(pair.log_probs()), batch.counted)
        before = None if batch.before is None else written_memory(guide, batch.before)
        others = previous_memories(pair.value("memory"), before)
        if others is not None:
            _add_counted(other, elbo_terms(model, guide, batch.episode, others), batch.counted, finite=False)
        kept = batch.episode.shape[1] - min(left_out, batch.episode.shape[1] // 2)
        if batch.counted[:, kept:].any():
            memory = written_memory(guide, batch.episode[:, :kept])
            terms = elbo_terms(model, guide, batch.episode[:, kept:], memory)
            _add_counted(strangers, terms, batch.counted[:, kept:])
    return own, other, strangers


def describe(results: dict[str, float]) -> str:
    """Say quantities in nats per image in one line."""
    named = ((name.removesuffix("_nats_per_image").replace("_", " "), value) for name, value in results.items())
    return ", ".join(f"{name} {value:.2f}" for name, value in named) + " nats per image"


def _add_counted(means: ElboMeans, terms: ElboTerms, counted: Tensor, finite: bool = True) -> None:
    if finite and not terms.elbo[counted].isfinite().all():
        raise DivergenceError(f"the ELBO is not finite ({describe(terms.mean().as_dict())})")
    means.add(terms, lambda value: value[counted].sum().cpu(), int(counted.sum()))
