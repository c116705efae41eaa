"""The ELBO of every image, term by term, and what the memory contributes to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

Program = Callable[..., object]  # a Pyro model or guide, called as (episode, memory=None)


@dataclass(frozen=True)
class ElboTerms:
    """ELBO = reconstruction - sum of KLs, in nats.

    Attributes:
        elbo: (B, T), or scalar once averaged; higher is better.
        reconstruction: E[ln p(x|z)], of the observed sites.
        kl: E[ln q - ln p] of every latent site, by its name; of a site that an episode shares, 1/T of it.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: dict[str, Tensor]

    def as_dict(self) -> dict[str, float]:
        """Every averaged term under its full name."""
        terms = {"elbo": self.elbo, "reconstruction": self.reconstruction}
        terms |= {f"kl_{name}": value for name, value in self.kl.items()}
        return {f"{name}_nats_per_image": value.item() for name, value in terms.items()}


@torch.no_grad()
def elbo_terms(model: Program, guide: Program, episode: Tensor, memory: Tensor | None = None) -> ElboTerms:
    """Estimate each image's ELBO terms with one draw of the guide, without KL weights.

    Args:
        model: Pyro model, sites batched (B, T) or (B, 1).
        guide: its guide.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read `episode` from as cues; without it, `episode` is written and read back.

    Returns:
        Terms of shape (B, T).
    """
    return _terms_of_traces(*_traces(model, guide, episode, memory))


def _traces(
    model: Program, guide: Program, episode: Tensor, memory: Tensor | None
) -> tuple[poutine.Trace, poutine.Trace]:
    guide_trace = poutine.trace(guide).get_trace(episode, memory)
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(episode, memory)
    return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


def _terms_of_traces(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> ElboTerms:
    model_trace.compute_log_prob()
    guide_trace.compute_log_prob()
    (image,) = (name for name in model_trace.observation_nodes if name != "memory")
    reconstruction = model_trace.nodes[image]["log_prob"]
    kl = {}
    for name in guide_trace.stochastic_nodes:
        gap = guide_trace.nodes[name]["log_prob"] - model_trace.nodes[name]["log_prob"]
        share = gap.shape[-1] / reconstruction.shape[-1]  # 1/T for a site that the episode shares
        kl[name] = (gap * share).expand_as(reconstruction)
    return ElboTerms(reconstruction - sum(kl.values()), reconstruction, kl)


@torch.no_grad()
def evaluate(model: Program, guide: Program, episodes: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Average the ELBO terms and the memory gain over the counted images of many episodes.

    The memory gain is the ELBO with the episode's own memory minus the ELBO with the memory of the episode before it
    (the first takes the last of its batch). With a single episode there is no other memory and no gain is reported.

    Args:
        model: Pyro model.
        guide: its guide.
        episodes: batches of images (B, T, C, H, W) and of which of them count (B, T).

    Returns:
        Quantities by their full name, in nats per image.
    """
    own, other, gain_counted = _Averages(), _Averages(), False
    previous: Tensor | None = None
    for episode, counted in episodes:
        model_trace, guide_trace = _traces(model, guide, episode, None)
        own.add(_terms_of_traces(model_trace, guide_trace), counted)
        memory = guide_trace.nodes["memory"]["value"]
        others = _previous_memories(memory, previous)
        previous = memory[-1:]
        if others is not None:
            other.add(elbo_terms(model, guide, episode, others), counted)
            gain_counted = True
    results = own.means().as_dict()
    if gain_counted:
        results["memory_gain_nats_per_image"] = own.means().elbo.item() - other.means().elbo.item()
    return results


def _previous_memories(memory: Tensor, previous: Tensor | None) -> Tensor | None:
    """Memory of the episode before each, (B, 1, ...); None where there is no other episode at all."""
    if previous is None and len(memory) == 1:
        return None
    return torch.cat([memory[-1:] if previous is None else previous, memory[:-1]])


class _Averages:
    """Running means of ELBO terms over counted images."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, terms: ElboTerms, counted: Tensor) -> None:
        self.count += int(counted.sum())
        flat = {"elbo": terms.elbo, "reconstruction": terms.reconstruction, **terms.kl}
        for name, value in flat.items():
            total = value[counted].double().sum()
            self.sums[name] = self.sums.get(name, 0) + total

    def means(self) -> ElboTerms:
        means = {name: total / self.count for name, total in self.sums.items()}
        return ElboTerms(means.pop("elbo"), means.pop("reconstruction"), means)
