"""The ELBO of every image, term by term, and what the memory contributes to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.batches import Batch, collect, deal
from inference.errors import DivergenceError
from inference.processes import ALONE, Processes
from inference.randomness import own_randomness
from inference.records import combine
from inference.traces import PyroProgram, SiteLogProbs, trace_pair, written_memory


@dataclass(frozen=True)
class ElboTerms:
    """ELBO = reconstruction - sum of KLs, in nats.

    Attributes:
        elbo: (B, T), or scalar once averaged; higher is better.
        reconstruction: E[ln p(x|z)], of the observed image.
        kl: E[ln q - ln p] of every latent site with a proper prior, by its name; of one that the images of an episode
            share, 1/T of it.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: dict[str, Tensor]

    @property
    def conditional_elbo(self) -> Tensor:
        """The ELBO given the memory, which a random one's own KL is no part of."""
        return self.elbo + self.kl["memory"] if "memory" in self.kl else self.elbo

    def mean(self) -> ElboTerms:
        """Average over the images."""
        kl = {name: value.mean() for name, value in self.kl.items()}
        return ElboTerms(self.elbo.mean(), self.reconstruction.mean(), kl)

    def as_dict(self) -> dict[str, float]:
        """Every averaged term under its full name."""
        terms = {"elbo": self.elbo, "reconstruction": self.reconstruction}
        terms |= {"conditional_elbo": self.conditional_elbo} if "memory" in self.kl else {}
        terms |= {f"kl_{name}": value for name, value in self.kl.items()}
        return {f"{name}_nats_per_image": value.item() for name, value in terms.items()}


@torch.no_grad()
def elbo_terms(model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None) -> ElboTerms:
    """Estimate each image's ELBO terms with one draw of the guide, without KL weights.

    Args:
        model: Pyro model, sites batched (B, T) or (B, 1), the observed one named "image".
        guide: its guide.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read `episode` from as cues; without it, `episode` is written and read back.

    Returns:
        Terms of shape (B, T).
    """
    return terms_of(trace_pair(model, guide, episode, memory).log_probs())


def terms_of(log_probs: SiteLogProbs) -> ElboTerms:
    """Sort the log-probabilities of draws of the guide into ELBO terms (..., B, T)."""
    kl = {}
    for name, posterior in log_probs.posterior.items():
        gap = posterior - log_probs.prior[name]
        share = gap.shape[-1] / log_probs.image.shape[-1]  # 1/T for a site that the episode shares
        kl[name] = (gap * share).expand_as(log_probs.image)
    return ElboTerms(log_probs.image - sum(kl.values()), log_probs.image, kl)


@torch.no_grad()
def evaluate(
    model: PyroProgram,
    guide: PyroProgram,
    episodes: Iterable[tuple[Tensor, Tensor]],
    seed: int = 0,
    processes: Processes = ALONE,
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
    with processes.together():
        found = [_evaluate_batch(model, guide, batch, left_out) for batch in deal(episodes, seed, processes)]
    own, other, strangers = (ElboMeans() for _ in range(3))
    for batch in collect(found, processes):
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


def previous_memories(memory: Tensor, previous: Tensor | None) -> Tensor | None:
    """Memory of the episode before each, (B, 1, ...); None where there is no other episode at all, or no memory."""
    if (previous is None and len(memory) == 1) or not memory.numel():
        return None
    return torch.cat([memory[-1:] if previous is None else previous, memory[:-1]])


class ElboMeans:
    """Running means of ELBO terms, in float64."""

    def __init__(self) -> None:
        self.sums: ElboTerms | None = None
        self.count = 0

    def add(self, terms: ElboTerms, total: Callable[[Tensor], Tensor], count: int) -> None:
        """Add `count` values of every term, which `total` sums."""
        added = combine([terms], lambda values: total(values[0].double()))
        self.sums = added if self.sums is None else combine([self.sums, added], lambda values: values[0] + values[1])
        self.count += count

    def merge(self, other: ElboMeans) -> None:
        """Add all that another one holds."""
        if other.sums is not None:
            self.add(other.sums, lambda value: value, other.count)

    def means(self) -> ElboTerms:
        """Means of all that was added, which is at least one value."""
        assert self.sums is not None
        return combine([self.sums], lambda values: values[0] / self.count)


def _add_counted(means: ElboMeans, terms: ElboTerms, counted: Tensor, finite: bool = True) -> None:
    if finite and not terms.elbo[counted].isfinite().all():
        raise DivergenceError(f"the ELBO is not finite ({describe(terms.mean().as_dict())})")
    means.add(terms, lambda value: value[counted].sum().cpu(), int(counted.sum()))
