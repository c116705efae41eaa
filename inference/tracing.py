"""Traces of a guide and its model, and the ELBO terms computed from these traces.

- Traces: `trace_pair` runs the guide, and then the model with the same values.
- ELBO terms: `elbo_terms`, `ElboTerms` and their running means.
- Records: dataclasses of tensors, joined tensor by tensor (`combine`, `concatenate`).
- Random state: saving, restoring and seeding it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, ImproperUniform
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence

from kpp_pyro.fast_pyro import unrecorded_parameters

PyroProgram = Callable[..., object]  # a Pyro model or guide, called as (episode, memory=None)
PLATE_NESTING = 2  # "episodes" at dim -2, "images" at dim -1
PARTICLE_DIM = -3  # left of "episodes" at -2 and "images" at -1

Record = TypeVar("Record")


# Traces


@dataclass(frozen=True)
class SiteLogProbs:
    """Log-probabilities of one run in nats.

    Each is (..., B, T); or (..., B, 1) at a site that the images of an episode share.

    Attributes:
        image: ln p(x | latents), (..., B, T).
        prior: ln p of every latent site with a proper prior, under the model; a flat prior's constant is dropped.
        posterior: ln q of the same sites under the guide.
    """

    image: Tensor
    prior: dict[str, Tensor]
    posterior: dict[str, Tensor]


@dataclass(frozen=True)
class TracedPair:
    """Traces of a run of the guide, and of the model with the same values."""

    model: poutine.Trace
    guide: poutine.Trace

    def value(self, site: str) -> Tensor:
        """Value at a site, latent or observed."""
        return site_value(self.model, site)

    def mean(self, site: str) -> Tensor:
        """Mean of a site's distribution under the model."""
        return site_mean(self.model, site)

    def latent_sites(self) -> list[str]:
        """Names of the latent sites with a proper prior, in the guide's order."""
        return [
            name
            for name in self.guide.stochastic_nodes
            if not isinstance(self.model.nodes[name]["fn"], ImproperUniform)
            and not (self.guide.nodes[name]["infer"] or {}).get("_deterministic")
        ]

    def points(self) -> list[str]:
        """Names of the latent sites with a proper prior at which the guide has a point (`Delta`), not a density."""
        return [
            name for name in self.latent_sites() if isinstance(base_distribution(self.guide.nodes[name]["fn"]), Delta)
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
        memory: (B, 1, ...) to read from; None if `episode` is written and read back.
        particles: K draws at once, under a plate at dim -3: values (K, B, T, ...).
        from_prior: latent sites drawn from the model's prior, given the guide's values at the other sites.
    """
    if particles is not None:
        model, guide = in_particle_plate(model, particles), in_particle_plate(guide, particles)
    sampled = poutine.block(guide, hide=list(from_prior)) if from_prior else guide
    guide_trace = traced(sampled, episode, memory)
    model_trace = traced(poutine.replay(model, trace=guide_trace), episode, memory)
    traces = TracedPair(prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace))
    return retrace_guide(traces, guide, episode, memory) if from_prior else traces


def retrace_guide(
    traces: TracedPair,
    guide: PyroProgram,
    episode: Tensor,
    memory: Tensor | None = None,
    particles: int | None = None,
) -> TracedPair:
    """Run another guide on the values of the model's trace; the model's trace is kept."""
    if particles is not None:
        guide = in_particle_plate(guide, particles)
    trace = traced(poutine.replay(guide, trace=traces.model), episode, memory)
    return TracedPair(traces.model, prune_subsample_sites(trace))


def amortized(guide: PyroProgram, episode: Tensor, memory: Tensor | None = None) -> PyroProgram:
    """The guide's posterior of these images as a program; a guide with `amortize` encodes and writes only once."""
    amortize = getattr(guide, "amortize", None)
    return guide if amortize is None else amortize(episode, memory)


def encoded(guide: PyroProgram, episode: Tensor) -> PyroProgram:
    """The guide of these images alone; a guide with `encoded` encodes them once, for any number of memories."""
    encode = getattr(guide, "encoded", None)
    return guide if encode is None else encode(episode)


@torch.no_grad()
def written_memory(guide: PyroProgram, episode: Tensor, seed: int | None = None) -> Tensor:
    """Memories (B, 1, ...) that the guide writes from episodes (B, T, C, H, W).

    A guide with `write_memory` draws no keys and no latents; any other guide is run.

    Args:
        guide: Pyro guide.
        episode: images to write.
        seed: seed of a random memory's draw, see `models.memory_model.MemoryGuide.write_memory`.
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
    """Value at a site of a trace."""
    node: dict[str, Any] = trace.nodes[site]  # type: ignore[assignment]
    return node["value"]


def site_mean(trace: poutine.Trace, site: str) -> Tensor:
    """Mean of the distribution at a site of a trace."""
    node: dict[str, Any] = trace.nodes[site]  # type: ignore[assignment]
    return node["fn"].mean


def in_particle_plate(program: PyroProgram, particles: int) -> PyroProgram:
    """The program under a plate of K particles at dim -3."""

    def run(*arguments: Any) -> object:
        with pyro.plate("particles", particles, dim=PARTICLE_DIM):
            return program(*arguments)

    return run


def base_distribution(distribution: Any) -> Any:
    """The distribution inside the wrappers of plates and `to_event`."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


# ELBO terms


def kl_term(posterior: Any, prior: Any, value: Tensor) -> Tensor:
    """KL(posterior || prior) in nats; where it has no closed form, its estimate from a draw of the posterior."""
    try:
        return kl_divergence(posterior, prior)
    except NotImplementedError:
        return posterior.log_prob(value) - prior.log_prob(value)


@dataclass(frozen=True)
class ElboTerms:
    """ELBO = reconstruction - sum of KLs, in nats.

    Attributes:
        elbo: (B, T), or scalar once averaged; higher is better.
        reconstruction: E[ln p(x|z)] of the observed image.
        kl: E[ln q - ln p] by latent site with a proper prior; a KL that T images share is divided by T.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: dict[str, Tensor]

    @property
    def conditional_elbo(self) -> Tensor:
        """The ELBO given the memory: without KL(q(M|X) || p(M)) of a random memory."""
        return self.elbo + self.kl["memory"] if "memory" in self.kl else self.elbo

    def mean(self) -> ElboTerms:
        """Averages over the images."""
        kl = {name: value.mean() for name, value in self.kl.items()}
        return ElboTerms(self.elbo.mean(), self.reconstruction.mean(), kl)

    def as_dict(self) -> dict[str, float]:
        """Every averaged term, by its name with its unit."""
        terms = {"elbo": self.elbo, "reconstruction": self.reconstruction}
        terms |= {"conditional_elbo": self.conditional_elbo} if "memory" in self.kl else {}
        terms |= {f"kl_{name}": value for name, value in self.kl.items()}
        return {f"{name}_nats_per_image": value.item() for name, value in terms.items()}


@torch.no_grad()
def elbo_terms(model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None) -> ElboTerms:
    """Estimate the ELBO terms (B, T) of each image with one draw of the guide, without KL weights.

    Args:
        model: Pyro model, sites batched (B, T) or (B, 1), the observed one named "image".
        guide: its guide.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read `episode` from as cues; None if `episode` is written and read back.
    """
    return terms_of(trace_pair(model, guide, episode, memory).log_probs())


def terms_of(log_probs: SiteLogProbs) -> ElboTerms:
    """ELBO terms (..., B, T) from the log-probabilities of draws of the guide."""
    kl = {}
    for name, posterior in log_probs.posterior.items():
        difference = posterior - log_probs.prior[name]
        share = difference.shape[-1] / log_probs.image.shape[-1]  # 1/T at a site that the images share
        kl[name] = (difference * share).expand_as(log_probs.image)
    return ElboTerms(log_probs.image - sum(kl.values()), log_probs.image, kl)


class ElboMeans:
    """Running means of ELBO terms, in float64."""

    def __init__(self) -> None:
        self.sums: ElboTerms | None = None
        self.count = 0

    def add(self, terms: ElboTerms, total: Callable[[Tensor], Tensor], count: int) -> None:
        """Add `count` values of every term; `total` sums a term's values."""
        added = combine([terms], lambda values: total(values[0].double()))
        self.sums = added if self.sums is None else combine([self.sums, added], lambda values: values[0] + values[1])
        self.count += count

    def merge(self, other: ElboMeans) -> None:
        """Add all values of other running means."""
        if other.sums is not None:
            self.add(other.sums, lambda value: value, other.count)

    def means(self) -> ElboTerms:
        """Means of all values added; at least one is required."""
        assert self.sums is not None
        return combine([self.sums], lambda values: values[0] / self.count)


# Records


def combine(records: Sequence[Record], join: Callable[[Sequence[Tensor]], Tensor]) -> Record:
    """One record from records of the same structure, by joining their corresponding tensors.

    A record is a tensor, or a dataclass, tuple or dictionary of records.
    """
    first: Any = records[0]
    rest: Any = records
    if isinstance(first, Tensor):
        return join(rest)  # type: ignore[return-value]
    if isinstance(first, dict):
        return {key: combine([record[key] for record in rest], join) for key in first}  # type: ignore[return-value]
    if isinstance(first, tuple):
        return tuple(combine(parts, join) for parts in zip(*rest, strict=True))  # type: ignore[return-value]
    fields = [field.name for field in dataclasses.fields(first)]
    return type(first)(*(combine([getattr(record, name) for record in rest], join) for name in fields))


def concatenate(records: Sequence[Record]) -> Record:
    """One record from several, concatenated along the first axis of every tensor."""
    return combine(records, lambda values: torch.cat(list(values)))


# Random state


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Torch's random state, of the CPU and of a CUDA device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Set torch's random state to one that `random_state` returned, on this device or on one of another kind."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    elif device.type == "cuda":
        torch.cuda.manual_seed(seed_of(*state["cpu"].tolist()))


def seed_of(*numbers: int) -> int:
    """A seed for a tuple of numbers, such as a run's seed and the index of a process or a batch."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # below 2^63, as torch's generators require


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random state inside the block; the random state outside is left unchanged."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
