"""Running a guide and its model together: the one place that knows how the two are traced."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, ImproperUniform
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from inference.randomness import own_randomness
from kpp_pyro.fast_pyro import unrecorded_parameters

PyroProgram = Callable[..., object]  # a Pyro model or guide, called as (episode, memory=None)
PARTICLE_DIM = -3  # left of "episodes" at -2 and "images" at -1


@dataclass(frozen=True)
class SiteLogProbs:
    """Log-probabilities of one run in nats, each (..., B, T), or (..., B, 1) of a site that an episode's images share.

    Attributes:
        image: ln p(x | latents), (..., B, T).
        prior: of every latent site under the model; one with a flat prior is left out, its constant being dropped.
        posterior: of the same sites under the guide.
    """

    image: Tensor
    prior: dict[str, Tensor]
    posterior: dict[str, Tensor]


@dataclass(frozen=True)
class TracedPair:
    """A run of the guide, and of the model with the same values."""

    model: poutine.Trace
    guide: poutine.Trace

    def value(self, site: str) -> Tensor:
        """Value of a site, latent or observed."""
        return site_value(self.model, site)

    def mean(self, site: str) -> Tensor:
        """Mean of a site's distribution under the model."""
        return site_mean(self.model, site)

    def latent_sites(self) -> list[str]:
        """Latent sites with a proper prior, in the guide's order."""
        return [
            name
            for name in self.guide.stochastic_nodes
            if not isinstance(self.model.nodes[name]["fn"], ImproperUniform)
            and not (self.guide.nodes[name]["infer"] or {}).get("_deterministic")
        ]

    def log_probs(self) -> SiteLogProbs:
        """Log-probabilities of the image and of every latent site."""
        self.model.compute_log_prob()
        self.guide.compute_log_prob()
        sites = self.latent_sites()
        return SiteLogProbs(
            self.model.nodes["image"]["log_prob"],
            {name: self.model.nodes[name]["log_prob"] for name in sites},
            {name: self.guide.nodes[name]["log_prob"] for name in sites},
        )

    def points(self) -> list[str]:
        """Latent sites with a proper prior for which the guide has a point (`Delta`) and no density."""
        return [
            name for name in self.latent_sites() if isinstance(base_distribution(self.guide.nodes[name]["fn"]), Delta)
        ]


def trace_pair(
    model: PyroProgram,
    guide: PyroProgram,
    episode: Tensor,
    memory: Tensor | None = None,
    particles: int | None = None,
    from_prior: Collection[str] = (),
) -> TracedPair:
    """Run the guide on an episode, and the model with the values that the guide drew.

    Args:
        model: Pyro model.
        guide: its guide.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read from; without it, `episode` is written and read back.
        particles: K draws at once, under a plate at dim -3: values (K, B, T, ...).
        from_prior: latent sites that the model draws instead, from their prior given the guide's values of the others.
    """
    if particles is not None:
        model, guide = in_particle_plate(model, particles), in_particle_plate(guide, particles)
    drawn = poutine.block(guide, hide=list(from_prior)) if from_prior else guide
    guide_trace = traced(drawn, episode, memory)
    model_trace = traced(poutine.replay(model, trace=guide_trace), episode, memory)
    pair = TracedPair(prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace))
    return retrace_guide(pair, guide, episode, memory) if from_prior else pair


def retrace_guide(
    pair: TracedPair,
    guide: PyroProgram,
    episode: Tensor,
    memory: Tensor | None = None,
    particles: int | None = None,
) -> TracedPair:
    """The same run of the model, seen by another guide: with the model's values, and the guide's own densities."""
    if particles is not None:
        guide = in_particle_plate(guide, particles)
    trace = traced(poutine.replay(guide, trace=pair.model), episode, memory)
    return TracedPair(pair.model, prune_subsample_sites(trace))


def amortized(guide: PyroProgram, episode: Tensor, memory: Tensor | None = None) -> PyroProgram:
    """The guide's posterior of these images; it encodes and writes once, where the guide knows how to (`amortize`)."""
    amortize = getattr(guide, "amortize", None)
    return guide if amortize is None else amortize(episode, memory)


@torch.no_grad()
def written_memory(guide: PyroProgram, episode: Tensor, seed: int | None = None) -> Tensor:
    """Memory (B, 1, ...) that the guide writes from episodes (B, T, C, H, W).

    A guide that knows how to (`write_memory`) draws neither keys nor latents for it; another runs whole.

    Args:
        guide: Pyro guide.
        episode: what to write.
        seed: of the draw of a random memory, see `models.memory_model.MemoryGuide.write_memory`.
    """
    write_memory = getattr(guide, "write_memory", None)
    if write_memory is not None:
        return write_memory(episode, seed)
    with nullcontext() if seed is None else own_randomness(seed, episode.device):
        return site_value(traced(guide, episode), "memory")


def traced(program: PyroProgram, *arguments: Any) -> poutine.Trace:
    """Trace of a run of a program, without its parameters."""
    with unrecorded_parameters():
        return poutine.trace(program).get_trace(*arguments)


def site_value(trace: poutine.Trace, site: str) -> Tensor:
    """Value of a site of a trace."""
    node: dict[str, Any] = trace.nodes[site]  # type: ignore[assignment]
    return node["value"]


def site_mean(trace: poutine.Trace, site: str) -> Tensor:
    """Mean of the distribution of a site of a trace."""
    node: dict[str, Any] = trace.nodes[site]  # type: ignore[assignment]
    return node["fn"].mean


def in_particle_plate(program: PyroProgram, particles: int) -> PyroProgram:
    """The program under a plate of K particles at dim -3."""

    def run(*arguments: Any) -> object:
        with pyro.plate("particles", particles, dim=PARTICLE_DIM):
            return program(*arguments)

    return run


def base_distribution(distribution: Any) -> Any:
    """The distribution under the wrappers that plates and `to_event` put around it."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution
