"""Importance-sampled ln p(x | M) of images given a memory, for any model and guide, from their traces.

    ln p-hat_K = logsumexp_k [ln p(x, latents_k | M) - ln q(latents_k)] - ln K

Given M the images are independent, so that each image has its own importance weights. Where the memory is random and
not given, each episode has its own weights.

- Proposals: `Proposal`, a mixture of guides and priors; `defensive_proposal` and `widened_proposal` of a guide.
- Weights: `WeightStream`, running sums over importance weights, with their diagnostics.
- Estimator: `importance_score`, and `weighted_draws`, which keeps the draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Normal
from pyro.ops.stats import fit_generalized_pareto
from pyro.poutine.messenger import Messenger
from torch import Tensor

from inference.tracing import (
    ElboMeans,
    ElboTerms,
    PyroProgram,
    SiteLogProbs,
    amortized,
    base_distribution,
    retrace_guide,
    terms_of,
    trace_pair,
)
from kpp_pyro.errors import InputError

PARTICLE_IMAGES_AT_ONCE = 2048  # bounds the device memory in use, for any K
TOLERATED_SHARE = 0.05  # of images with a k-hat above its limit
_WIDENING, _MOST_WIDENED_NUMBERS = 3.0, 12  # factor of a key's deviations, and the most numbers of such a key
_LEAST_TAIL = 5  # fewest weights of a Pareto fit
_ROUNDING = 1e-12  # of weights relative to the largest
_BOUND_STEPS = (1, 2, 5)  # ln p-hat_k is reported for k of these times powers of ten


# Proposals


@dataclass(frozen=True)
class Part:
    """One component of a proposal: a guide, with some sites drawn from the model's prior given the others.

    Attributes:
        share: share of the particles.
        guide: a program for the given images and memory, see `amortized`.
        from_prior: sites drawn from the model. They must be the last sites in the guide's order, so that the guide's
            draws do not depend on them.
    """

    share: float
    guide: PyroProgram
    from_prior: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """A mixture of parts, whose shares add up to one.

    The importance weights are those of the mixture (the balance heuristic, Veach & Guibas 1995): p divided by the
    average of the parts' q, each weighted by its number of particles. A part that draws every site from the model
    bounds the weights by p(x|z) / share (defensive importance sampling, Hesterberg 1995), and covers the prior's
    support.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        """Check the shares."""
        shares = [part.share for part in self.parts]
        if min(shares) < 0 or not math.isclose(sum(shares), 1):
            raise InputError(f"proposal: expected shares that add up to one, found {shares}")

    def counts(self, particles: int) -> list[int]:
        """Number of particles of every part, K in all; the remainder of rounding down goes to the first part.

        Raises:
            InputError: K below one.
        """
        if particles < 1:
            raise InputError(f"particles: expected at least 1, found {particles}")
        counts = [math.floor(part.share * particles + 1e-9) for part in self.parts]
        counts[0] += particles - sum(counts)
        return counts


def latent_sites(model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None) -> list[str]:
    """Names of the latent sites with a proper prior, in the guide's order.

    Raises:
        InputError: the guide has a point in place of a density at one of them.
    """
    traces = trace_pair(model, guide, episode, memory)
    if traces.points():
        raise InputError(
            f"guide: expected densities, found a Delta at {', '.join(traces.points())}: "
            "a point has no importance weights"
        )
    return traces.latent_sites()


def defensive_proposal(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None, prior_share: float = 0.01
) -> Proposal:
    """The guide and a small share of the model's prior, for images read from the memory that they were written to."""
    posterior = amortized(guide, episode, memory)
    sites = tuple(latent_sites(model, posterior, episode, memory))
    return Proposal((Part(1 - prior_share, posterior), Part(prior_share, posterior, sites)))


@torch.no_grad()
def widened_proposal(model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None) -> Proposal:
    """The guide, the guide with widened normal keys, and a small share of the prior: for written images.

    Where reads are flat inside a block, the true posterior of a key is the prior restricted to the block. A normal
    narrower than the block covers this posterior by its tails; its importance weights have k-hat near 1.

    Keys of more than 12 numbers are not widened, since draws of a normal three times as wide would miss the posterior
    in that many dimensions. Sites that are not normal and the last site, the latent, are not widened either. Without a
    site to widen, the result is `defensive_proposal`.
    """
    posterior = amortized(guide, episode, memory)
    traces = trace_pair(model, posterior, episode, memory)
    sites = tuple(latent_sites(model, posterior, episode, memory))
    moves = {}
    for name in sites[:-1]:
        fn: Any = traces.guide.nodes[name]["fn"]
        if isinstance(base_distribution(fn), Normal) and fn.event_shape.numel() <= _MOST_WIDENED_NUMBERS:
            moves[name] = Move(torch.zeros_like(fn.mean), torch.full_like(fn.mean, math.log(_WIDENING)))
    if not moves:
        return defensive_proposal(model, posterior, episode, memory)
    return Proposal((Part(0.69, posterior), Part(0.3, MoveNormals(moves)(posterior)), Part(0.01, posterior, sites)))


@dataclass(frozen=True)
class Move:
    """A change of normals, (B, T, *event): from N(m, s^2) to N(m + s shift, (s exp(log_scale))^2).

    For a distribution without closed moments, such as a flow, m = 0 and s = 1.
    """

    shift: Tensor
    log_scale: Tensor


class MoveNormals(Messenger):
    """Replaces the distributions at named sites of a program by moved normals.

    Args:
        moves: by site, the change of its normals.

    Attributes:
        replaced: by site, the distribution that was replaced in the last run.
    """

    def __init__(self, moves: Mapping[str, Move]) -> None:
        super().__init__()
        self.moves = moves
        self.replaced: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.moves:
            move, fn = self.moves[msg["name"]], msg["fn"]
            self.replaced[msg["name"]] = fn
            mean, deviation = moments(fn) or (0.0, 1.0)
            normal = Normal(mean + deviation * move.shift, deviation * move.log_scale.exp())
            msg["fn"] = normal.to_event(fn.event_dim)


def moments(fn: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of a distribution; None where they have no closed form, as for flows."""
    try:
        return fn.mean, fn.stddev
    except NotImplementedError:
        return None


# Weights


def pareto_k_limit(particles: int) -> float:
    """The largest k-hat with which an estimate from K particles is reliable: min(1 - 1 / log10 K, 0.7).

    Source: Vehtari, Simpson, Gelman, Yao & Gabry, "Pareto smoothed importance sampling", JMLR 25 (2024).
    The limit is 0.57 for K = 200, 0.67 for K = 1,000 and 0.7 from K = 2,155. It is -inf for K = 1.
    """
    return min(1 - 1 / math.log10(particles), 0.7) if particles > 1 else -math.inf


class WeightStream:
    """Running sums over the log-weights of K particles, for data of any batch shape; chunks of any size and order.

    Args:
        particles: K, the number of weights in all.
        tail: whether to keep the largest O(sqrt(K)) weights, for k-hat.

    Attributes:
        held: number of weights added so far.
    """

    def __init__(self, particles: int, tail: bool = False) -> None:
        self.held = 0
        self.log_sum = self.log_sum_of_squares = torch.tensor(-torch.inf, dtype=torch.float64)
        self._tail_size = math.ceil(min(0.2 * particles, 3 * math.sqrt(particles))) if tail else 0
        self._largest: Tensor | None = None

    def add(self, log_weights: Tensor) -> None:
        """Add a chunk of log-weights (n, ...), in nats."""
        log_weights = log_weights.double()
        self.held += len(log_weights)
        self.log_sum = torch.logaddexp(self.log_sum, log_weights.logsumexp(0))
        self.log_sum_of_squares = torch.logaddexp(self.log_sum_of_squares, (2 * log_weights).logsumexp(0))
        if self._tail_size:
            seen = log_weights if self._largest is None else torch.cat([self._largest, log_weights])
            self._largest = seen.topk(min(len(seen), self._tail_size + 1), dim=0).values

    def log_mean(self) -> Tensor:
        """ln p-hat in nats, (...): the log of the mean of the weights held."""
        return self.log_sum - math.log(self.held)

    def effective_sample_size(self) -> Tensor:
        """(sum w)^2 / sum w^2, between 1 and K, (...); zero where every weight is zero."""
        return (2 * self.log_sum - self.log_sum_of_squares).exp().nan_to_num(0.0)

    def monte_carlo_error(self) -> Tensor:
        """Standard error of `log_mean` in nats, by the delta method, (...); NaN with one weight."""
        if self.held == 1:
            return torch.full_like(self.log_sum, torch.nan)
        relative_variance = 1 / self.effective_sample_size() - 1 / self.held
        return (relative_variance.clamp(min=0) * self.held / (self.held - 1)).sqrt()

    def pareto_k(self) -> Tensor:
        """k-hat, (...): shape of the generalized Pareto distribution fitted to the largest weights; NaN with too few.

        Above `pareto_k_limit` the estimate is unreliable.
        """
        if self._largest is None or self._tail_size < _LEAST_TAIL:
            return torch.full_like(self.log_sum, torch.nan)
        tails = self._largest.reshape(len(self._largest), -1).movedim(0, 1).cpu()  # (data, tail + 1), descending
        return (
            torch.tensor([_tail_shape(tail) for tail in tails], dtype=torch.float64)
            .to(self.log_sum)
            .view_as(self.log_sum)
        )


def _tail_shape(largest: Tensor) -> float:
    """k-hat of the M exceedances over the last of log-weights (M + 1,), which are in descending order."""
    if not largest[0] > -torch.inf:
        return math.nan  # every weight is zero, or one is NaN
    relative = (largest - largest[0]).exp()
    exceedances = relative[:-1] - relative[-1]
    exceedances = exceedances[exceedances > _ROUNDING]
    if len(exceedances) == 0:
        return 0.0  # equal weights have no tail
    if len(exceedances) < _LEAST_TAIL:
        return math.inf  # a few weights carry the whole sum
    try:
        return fit_generalized_pareto(exceedances)[0]
    except ZeroDivisionError:  # one weight dwarfs all others
        return math.inf


# Estimator


@dataclass(frozen=True)
class ImportanceScore:
    """Importance-sampled ln p(x | M) of B x T images, or of B episodes where the memory is random and not given.

    All in nats, per datum.

    Attributes:
        log_likelihood: ln p-hat_K, (B, T) or (B,).
        monte_carlo_error: standard error of ln p-hat_K, by the delta method.
        effective_sample_size: effective number of the K weights.
        pareto_k: k-hat of the weights; above `pareto_k_limit` the estimate is unreliable.
        elbos: ELBO terms (B, T) of every part of the proposal that draws all sites from its guide, in order.
        bounds: ln p-hat_k by k, of 1, 2, 5, 10, ... and K particles.
    """

    log_likelihood: Tensor
    monte_carlo_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    elbos: tuple[ElboTerms, ...]
    bounds: dict[int, Tensor]

    @property
    def pareto_k_limit(self) -> float:
        """The largest k-hat with which an estimate from as many particles is reliable."""
        return pareto_k_limit(max(self.bounds))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean of `log_likelihood` over the data. The Monte Carlo error is not included."""
        return standard_error(self.log_likelihood)

    @property
    def elbo(self) -> ElboTerms:
        """ELBO terms of the proposal's first part."""
        return self.elbos[0]


@dataclass(frozen=True)
class WeightedDraws:
    """K draws of the latents, with their importance weights.

    Attributes:
        values: draws at every latent site, (K, B, T, *event).
        log_joint: ln p(x, latents | M) in nats, (K, B, T).
        log_proposal: ln q(latents) of the mixture in nats, (K, B, T).
    """

    values: dict[str, Tensor]
    log_joint: Tensor
    log_proposal: Tensor

    @property
    def log_weights(self) -> Tensor:
        """ln p - ln q in nats, (K, B, T)."""
        return self.log_joint - self.log_proposal


@torch.no_grad()
def importance_score(
    model: PyroProgram,
    proposal: Proposal,
    episode: Tensor,
    memory: Tensor | None = None,
    *,
    particles: int,
    at_once: int = PARTICLE_IMAGES_AT_ONCE,
) -> ImportanceScore:
    """Estimate ln p(x | M) of every image, with K particles each.

    The device memory in use does not grow with K; it grows with the images of `episode` only above `at_once` images. A
    guide with `amortize` has encoded and written once, when the proposal was made.

    Args:
        model: Pyro model; plates "episodes" at dim -2, "images" at dim -1, the observed site named "image".
        proposal: proposal for this episode and memory.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read `episode` from as cues; None if `episode` is written and read back.
        particles: K.
        at_once: most particles times images in one pass.

    Raises:
        InputError: K below one.
    """
    chunks = _Chunks(model, episode, memory, proposal, particles, at_once)
    counts = proposal.counts(particles)
    fewer = (proposal.counts(k) for k in bound_steps(particles))
    bounds = [_Bound(split, tail=split == counts) for split in fewer if _within(split, counts)]
    elbos = {index: ElboMeans() for index, part in enumerate(proposal.parts) if not part.from_prior}
    for part, start, draws in chunks:
        for bound in bounds:
            bound.add(part, start, draws)
        if part in elbos:
            elbos[part].add(terms_of(draws.log_probs), lambda value: value.sum(0), len(draws.log_joint))
    final = bounds[-1].weights
    return ImportanceScore(
        final.log_mean(),
        final.monte_carlo_error(),
        final.effective_sample_size(),
        final.pareto_k(),
        tuple(means.means() for means in elbos.values() if means.count),
        {bound.weights.held: bound.weights.log_mean() for bound in bounds},
    )


@torch.no_grad()
def exact_score(model: PyroProgram, guide: PyroProgram, episode: Tensor, *, particles: int) -> ImportanceScore:
    """ln p(x | M) of programs in which nothing is random, given their memory: all K draws would be the same."""
    terms = terms_of(trace_pair(model, guide, episode).log_probs())
    value, none = terms.elbo.double(), torch.zeros_like(terms.elbo, dtype=torch.float64)
    steps = bound_steps(particles)
    return ImportanceScore(value, none, none + particles, none, (terms, terms), {step: value for step in steps})


@torch.no_grad()
def weighted_draws(
    model: PyroProgram,
    proposal: Proposal,
    episode: Tensor,
    memory: Tensor | None = None,
    *,
    particles: int,
    at_once: int = PARTICLE_IMAGES_AT_ONCE,
) -> WeightedDraws:
    """Draw as `importance_score` does, and keep all K draws: for a few images, since memory in use grows with K.

    Raises:
        InputError: K below one.
    """
    chunks = [draws for _, _, draws in _Chunks(model, episode, memory, proposal, particles, at_once)]
    mixture = _Bound(proposal.counts(particles))
    return WeightedDraws(
        {name: torch.cat([draws.values[name] for draws in chunks]) for name in chunks[0].values},
        torch.cat([draws.log_joint for draws in chunks]),
        torch.cat([mixture.log_mixture(draws.log_parts) for draws in chunks]),
    )


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of independent values; NaN for one value."""
    return values.std().item() / math.sqrt(values.numel()) if values.numel() > 1 else math.nan


def reliability(pareto_k: Tensor, effective_sample_size: Tensor, limit: float) -> dict[str, Any]:
    """Diagnostics of the importance weights of many images, as they stand in a report."""
    # NaN counts as unreliable. Equal weights, whose k-hat is 0, are reliable even if the limit of few draws is below 0.
    unreliable = (~(pareto_k <= max(limit, 0.0))).double().mean().item()
    return {
        "effective_sample_size_median": effective_sample_size.median().item(),
        "pareto_k_median": pareto_k.nanmedian().item(),
        "pareto_k_limit": limit,
        "pareto_k_above_limit_share": unreliable,
        "trustworthy": unreliable <= TOLERATED_SHARE,
    }


def bound_steps(particles: int) -> list[int]:
    """1, 2, 5, 10, ... up to and including K."""
    steps = {step * 10**power for power in range(len(str(particles))) for step in _BOUND_STEPS}
    return sorted({step for step in steps if step < particles} | {particles})


@dataclass(frozen=True)
class _Draws:
    """A chunk of n particles from one part of a proposal.

    Attributes:
        values: draws at every latent site.
        log_probs: log-probabilities under the model and this part's guide.
        log_joint: ln p(x, latents), (n, B, T), or (n, B) with a random memory.
        log_parts: ln q(latents) of every part, (parts, n, B, T) or (parts, n, B).
    """

    values: dict[str, Tensor]
    log_probs: SiteLogProbs
    log_joint: Tensor
    log_parts: Tensor


@dataclass(frozen=True)
class _Chunks:
    """The particles of a proposal in chunks: (index of the part, index of the chunk's first particle, draws)."""

    model: PyroProgram
    episode: Tensor
    memory: Tensor | None
    proposal: Proposal
    particles: int
    at_once: int

    def __iter__(self) -> Iterator[tuple[int, int, _Draws]]:
        chunk = max(1, self.at_once // (self.episode.shape[0] * self.episode.shape[1]))
        for part, count in enumerate(self.proposal.counts(self.particles)):
            for start in range(0, count, chunk):
                yield part, start, self._draw(self.proposal.parts[part], min(chunk, count - start))

    def _draw(self, part: Part, particles: int) -> _Draws:
        arguments = (self.episode, self.memory)
        traces = trace_pair(self.model, part.guide, *arguments, particles, part.from_prior)
        own = traces.log_probs()
        log_parts = []
        for other in self.proposal.parts:
            posterior = own.posterior
            if other.guide is not part.guide:
                posterior = retrace_guide(traces, other.guide, *arguments, particles).log_probs().posterior
            densities = {**posterior, **{name: own.prior[name] for name in other.from_prior}}
            log_parts.append(_over_data(own, list(densities.values())))
        values = {name: traces.value(name) for name in own.prior}
        return _Draws(values, own, _over_data(own, [own.image, *own.prior.values()]), torch.stack(log_parts))


def _within(counts: Sequence[int], drawn: Sequence[int]) -> bool:
    """Whether no part needs more particles than it draws; by rounding, the first part may need more for a smaller k."""
    return all(count <= available for count, available in zip(counts, drawn, strict=True))


def _over_data(log_probs: SiteLogProbs, terms: list[Tensor]) -> Tensor:
    """Sum terms (n, B, T) or (n, B, 1) to (n, B, T); to (n, B) where the images of an episode share a latent site."""
    images, nothing = log_probs.image.shape[-1], torch.zeros_like(log_probs.image, dtype=torch.float64)
    if all(value.shape[-1] == images for value in log_probs.prior.values()):
        return sum((term.double() for term in terms), nothing)
    return sum((term.double().sum(-1) for term in terms), nothing[..., 0])


class _Bound:
    """ln p-hat_k of the first `counts` particles of each part; the counts are also the weights of the mixture."""

    def __init__(self, counts: Sequence[int], tail: bool = False) -> None:
        self.counts = counts
        self.weights = WeightStream(sum(counts), tail)

    def log_mixture(self, log_parts: Tensor) -> Tensor:
        """ln q of the mixture (n, ...), from ln q of its parts (parts, n, ...)."""
        used = [part for part, count in enumerate(self.counts) if count]
        shares = log_parts.new_tensor([self.counts[part] for part in used]) / sum(self.counts)
        return (log_parts[used] + shares.log().view(-1, *[1] * (log_parts.dim() - 1))).logsumexp(0)

    def add(self, part: int, start: int, draws: _Draws) -> None:
        """Add those of a part's particles `start`, `start` + 1, ... that belong to this bound."""
        count = max(0, min(len(draws.log_joint), self.counts[part] - start))
        if count:
            self.weights.add(draws.log_joint[:count] - self.log_mixture(draws.log_parts[:, :count]))
