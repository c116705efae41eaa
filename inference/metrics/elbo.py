"""The mean ELBO of held-out images, its terms, and the memory gain."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from inference.errors import DivergenceError
from inference.importance.scoring import Batch, batches_of, next_image_of, previous_memories
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
) -> dict[str, float]:
    """Average the ELBO terms and the memory gain over the counted images of many episodes.

    Memory gain = ELBO(own memory) - ELBO(memory of another episode), without the KL of a random memory. The other
    episode is the previous one; for the first episode, the last one in its batch. The gain is reported only if every
    image has such a memory, the memory has at least one scalar, and the gain is finite.

    Left-out ELBO: where the memory has a prior that predicts images, of the last image of each episode, given a memory
    of the other images.

    The results depend neither on the number of processes nor on the random state, which is left unchanged.

    Args:
        model: Pyro model.
        guide: its guide.
        episodes: batches of images (B, T, C, H, W) and masks (B, T), True for images that count; the same in every
            process.
        seed: seed of all draws.
        processes: processes that share the batches.

    Returns:
        Averages by name, in nats per image.

    Raises:
        DivergenceError: the ELBO of an image, given its own memory or left out, is not finite.
    """
    share = map if processes.count == 1 else processes.map
    own, other, left_out = means = ElboMeans(), ElboMeans(), ElboMeans()
    for batch in share(partial(_batch_means, model, guide), batches_of(episodes, seed)):
        for of_all, of_batch in zip(means, batch, strict=True):
            of_all.merge(of_batch)
    results = own.means().as_dict()
    if left_out.count:
        results["left_out_elbo_nats_per_image"] = left_out.means().elbo.item()
    if other.count == own.count:
        gain = (own.means().conditional_elbo - other.means().conditional_elbo).item()
        if math.isfinite(gain):
            results["memory_gain_nats_per_image"] = gain
    return results


def _batch_means(model: PyroProgram, guide: PyroProgram, batch: Batch) -> tuple[ElboMeans, ElboMeans, ElboMeans]:
    """ELBO terms given the own memory, given the previous episode's, and of left-out images."""
    own, other, left_out = ElboMeans(), ElboMeans(), ElboMeans()
    with own_randomness(batch.seed, batch.episode.device):
        traces = trace_pair(model, guide, batch.episode)
        _add_counted(own, terms_of(traces.log_probs()), batch.counted)
        before = None if batch.before is None else written_memory(guide, batch.before)
        others = previous_memories(traces.value("memory"), before)
        if others is not None:
            _add_counted(other, elbo_terms(model, guide, batch.episode, others), batch.counted, finite=False)
        written, last = batch.episode[:, :-1], batch.episode[:, -1:]
        following = next_image_of(model, guide, last)
        if following is not None and written.numel():
            _add_counted(left_out, elbo_terms(*following, last, written_memory(guide, written)), batch.counted[:, -1:])
    return own, other, left_out


def describe(results: dict[str, float]) -> str:
    """One line of text with quantities in nats per image."""
    named = ((name.removesuffix("_nats_per_image").replace("_", " "), value) for name, value in results.items())
    return ", ".join(f"{name} {value:.2f}" for name, value in named) + " nats per image"


def _add_counted(means: ElboMeans, terms: ElboTerms, counted: Tensor, finite: bool = True) -> None:
    if not counted.any():
        return
    if finite and not terms.elbo[counted].isfinite().all():
        raise DivergenceError(f"the ELBO is not finite ({describe(terms.mean().as_dict())})")
    means.add(terms, lambda value: value[counted].sum().cpu(), int(counted.sum()))
