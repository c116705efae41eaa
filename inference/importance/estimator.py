"""Importance-sampled log-likelihoods of images given a memory, for any model/guide pair, from traces.

    ln p-hat_K = logsumexp_k [ln p(x, latents_k | M) - ln q(latents_k)] - ln K

Given M the images are independent, so that each has weights of its own; where the memory is random, each episode has.
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

_LEAST_TAIL = 5  # weights below which a Pareto fit means nothing
_ROUNDING = 1e-12  # of weights relative to the largest


class WeightStream:
    """Sums over the log-weights of K particles, for data of any batch shape; chunks come in any size and order.

    Args:
        particles: K, the number of weights that will come.
        tail: whether to keep the largest O(sqrt(K)) of them, for k-hat.
    """

    def __init__(self, particles: int, tail: bool = False) -> None:
        self.held = 0
        self.log_sum = self.log_sum_of_squares = torch.tensor(-torch.inf, dtype=torch.float64)
        self._tail_size = math.ceil(min(0.2 * particles, 3 * math.sqrt(particles))) if tail else 0
        self._largest: Tensor | None = None

    def add(self, log_weights: Tensor) -> None:
        """Add a chunk (n, ...), in nats."""
        log_weights = log_weights.double()
        self.held += len(log_weights)
        self.log_sum = torch.logaddexp(self.log_sum, log_weights.logsumexp(0))
        self.log_sum_of_squares = torch.logaddexp(self.log_sum_of_squares, (2 * log_weights).logsumexp(0))
        if self._tail_size:
            seen = log_weights if self._largest is None else torch.cat([self._largest, log_weights])
            self._largest = seen.topk(min(len(seen), self._tail_size + 1), dim=0).values

    def log_mean(self) -> Tensor:
        """ln p-hat_K (...); the normaliser is the number of weights held."""
        return self.log_sum - math.log(self.held)

    def effective_sample_size(self) -> Tensor:
        """(sum w)^2 / sum w^2, between 1 and K, (...); zero where every weight is zero."""
        return (2 * self.log_sum - self.log_sum_of_squares).exp().nan_to_num(0.0)

    def monte_carlo_error(self) -> Tensor:
        """Standard error of `log_mean` in nats, by the delta method, (...); not known (NaN) from one weight."""
        if self.held == 1:
            return torch.full_like(self.log_sum, torch.nan)
        relative_variance = 1 / self.effective_sample_size() - 1 / self.held
        return (relative_variance.clamp(min=0) * self.held / (self.held - 1)).sqrt()

    def pareto_k(self) -> Tensor:
        """Shape k-hat of the generalized Pareto distribution of the largest weights, (...).

        Above 0.7 the estimate is not to be trusted (Vehtari, Simpson, Gelman, Yao & Gabry, "Pareto smoothed importance
        sampling", 2024); NaN with too few weights to tell.
        """
        if self._largest is None or self._tail_size < _LEAST_TAIL:
            return torch.full_like(self.log_sum, torch.nan)
        tails = self._largest.reshape(len(self._largest), -1).movedim(0, 1).cpu()  # (data, tail + 1), falling
        return torch.tensor([_tail_shape(tail) for tail in tails]).to(self.log_sum).view_as(self.log_sum)


def _tail_shape(largest: Tensor) -> float:
    """k-hat of the log-weights (M + 1,), largest first: of M exceedances over the last."""
    if not largest[0] > -torch.inf:
        return math.nan  # every weight is zero, or one is not a number
    relative = (largest - largest[0]).exp()
    exceedances = relative[:-1] - relative[-1]
    exceedances = exceedances[exceedances > _ROUNDING]
    if len(exceedances) == 0:
        return 0.0  # equal weights have no tail
    if len(exceedances) < _LEAST_TAIL:
        return math.inf  # a few weights are all there is
    try:
        return fit_generalized_pareto(exceedances)[0]
    except ZeroDivisionError:  # one weight dwarfs all others
        return math.inf


PARTICLE_IMAGES_AT_ONCE = 2048  # bounds the memory in use, whatever K is
_BOUND_STEPS = (1, 2, 5)  # ln p-hat_K is reported at these times powers of ten


@dataclass(frozen=True)
class Part:
    """One way to draw the latents of images: from a guide, but for some sites from the model, given the others.

    Attributes:
        share: of the particles.
        guide: a program for these very images and their memory, see `amortized`.
        from_prior: sites that the model draws; the last ones in the guide's order, so that what the guide draws does
            not depend on them.
    """

    share: float
    guide: PyroProgram
    from_prior: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """A mixture of ways to draw; its shares add up to one.

    The weights are those of the mixture (the balance heuristic of Veach & Guibas 1995): p over the average of the
    parts' q by their numbers of particles. A part that draws everything from the model bounds them by p(x|z) over its
    share (defensive importance sampling, Hesterberg 1995), and covers whatever the other parts leave out.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        """Check the shares."""
        shares = [part.share for part in self.parts]
        if min(shares) < 0 or not math.isclose(sum(shares), 1):
            raise InputError(f"proposal: expected shares that add up to one, found {shares}")

    def counts(self, particles: int) -> list[int]:
        """Particles of every part, of K in all; what is left by rounding down goes to the first part.

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
    pair = trace_pair(model, guide, episode, memory)
    if pair.points():
        raise InputError(
            f"guide: expected densities, found a Delta at {', '.join(pair.points())}: "
            "importance weights from a point mean nothing"
        )
    return pair.latent_sites()


def defensive_proposal(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None, prior_share: float = 0.01
) -> Proposal:
    """The guide, with a little of the model's prior: for images read from the memory that they were written to."""
    bound = amortized(guide, episode, memory)
    sites = tuple(latent_sites(model, bound, episode, memory))
    return Proposal((Part(1 - prior_share, bound), Part(prior_share, bound, sites)))


@dataclass(frozen=True)
class ImportanceScore:
    """Scores of B x T images, or of B episodes where the memory is random; all in nats, per datum.

    Attributes:
        log_likelihood: ln p-hat_K, (B, T) or (B,).
        monte_carlo_error: standard error of it, by the delta method.
        effective_sample_size: of the K weights.
        pareto_k: PSIS k-hat of the weights; above 0.7 the estimate is not to be trusted.
        elbos: the ELBO and its terms (B, T) of every part that draws all sites from its guide, in their order.
        bounds: ln p-hat_k of fewer particles, and of all, by their number k.
    """

    log_likelihood: Tensor
    monte_carlo_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    elbos: tuple[ElboTerms, ...]
    bounds: dict[int, Tensor]

    @property
    def standard_error(self) -> float:
        """Of the mean of `log_likelihood` over the data; it does not tell how well each is estimated."""
        return standard_error(self.log_likelihood)

    @property
    def elbo(self) -> ElboTerms:
        """The ELBO of the proposal's first part."""
        return self.elbos[0]


@dataclass(frozen=True)
class WeightedDraws:
    """K draws of the latents with their weights, for a look at the posterior.

    Attributes:
        values: of every latent site, (K, B, T, *event).
        log_joint: ln p(x, latents | M), (K, B, T).
        log_proposal: ln q(latents), of the mixture, (K, B, T).
    """

    values: dict[str, Tensor]
    log_joint: Tensor
    log_proposal: Tensor

    @property
    def log_weights(self) -> Tensor:
        """ln p - ln q, (K, B, T)."""
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

    The memory in use does not grow with K, and grows with the images of `episode` only where these alone exceed
    `at_once`. The encoder and the write run in making the proposal, once, where the guide offers `amortize`.

    Args:
        model: Pyro model; plates "episodes" at dim -2, "images" at dim -1, the observed site named "image".
        proposal: how to draw, made for this episode and memory.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read them from as cues; without it, `episode` is written and read back.
        particles: K.
        at_once: most particle-images in one pass.

    Raises:
        InputError: K below one.
    """
    chunks = _Chunks(model, episode, memory, proposal, particles, at_once)
    everything = proposal.counts(particles)
    splits = (proposal.counts(k) for k in bound_steps(particles))
    bounds = [_Bound(split, tail=split == everything) for split in splits if _within(split, everything)]
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
def weighted_draws(
    model: PyroProgram,
    proposal: Proposal,
    episode: Tensor,
    memory: Tensor | None = None,
    *,
    particles: int,
    at_once: int = PARTICLE_IMAGES_AT_ONCE,
) -> WeightedDraws:
    """Draw as `importance_score` does, and keep the draws: for a few images."""
    chunks = [draws for _, _, draws in _Chunks(model, episode, memory, proposal, particles, at_once)]
    shares = _Bound(proposal.counts(particles))
    return WeightedDraws(
        {name: torch.cat([draws.values[name] for draws in chunks]) for name in chunks[0].values},
        torch.cat([draws.log_joint for draws in chunks]),
        torch.cat([shares.log_mixture(draws.log_parts) for draws in chunks]),
    )


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of independent values; not known (NaN) from one."""
    return values.std().item() / math.sqrt(values.numel()) if values.numel() > 1 else math.nan


def bound_steps(particles: int) -> list[int]:
    """1, 2, 5, 10, ... up to and with K."""
    steps = {step * 10**power for power in range(len(str(particles))) for step in _BOUND_STEPS}
    return sorted({step for step in steps if step < particles} | {particles})


@dataclass(frozen=True)
class _Draws:
    """A chunk of n particles from one part of a proposal.

    Attributes:
        values: of every latent site.
        log_probs: of the run of this part.
        log_joint: ln p(x, latents), (n, B, T), or (n, B) with a random memory.
        log_parts: ln q(latents) of every part, (parts, n, B, T) or (parts, n, B).
    """

    values: dict[str, Tensor]
    log_probs: SiteLogProbs
    log_joint: Tensor
    log_parts: Tensor


@dataclass(frozen=True)
class _Chunks:
    """The particles of a proposal, a chunk at a time: (part, index of its first in the part, draws)."""

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
        pair = trace_pair(self.model, part.guide, *arguments, particles, part.from_prior)
        own = pair.log_probs()
        log_parts = []
        for other in self.proposal.parts:
            posterior = own.posterior
            if other.guide is not part.guide:
                posterior = retrace_guide(pair, other.guide, *arguments, particles).log_probs().posterior
            mixed = {**posterior, **{name: own.prior[name] for name in other.from_prior}}
            log_parts.append(_over_data(own, list(mixed.values())))
        values = {name: pair.value(name) for name in own.prior}
        return _Draws(values, own, _over_data(own, [own.image, *own.prior.values()]), torch.stack(log_parts))


def _within(counts: Sequence[int], everything: Sequence[int]) -> bool:
    """Whether every part draws as many particles; rounding may leave the first part fewer of more."""
    return all(count <= drawn for count, drawn in zip(counts, everything, strict=True))


def _over_data(log_probs: SiteLogProbs, terms: list[Tensor]) -> Tensor:
    """Add terms (n, B, T) or (n, B, 1) for every image; for every episode if its images share a latent site."""
    images = log_probs.image.shape[-1]
    if all(value.shape[-1] == images for value in log_probs.prior.values()):
        return sum(term.double() for term in terms)  # type: ignore[return-value]
    return sum(term.double().sum(-1) for term in terms)  # type: ignore[return-value]


class _Bound:
    """ln p-hat_k of the first particles of every part, whose numbers also are the shares of the mixture."""

    def __init__(self, counts: Sequence[int], tail: bool = False) -> None:
        self.counts = counts
        self.weights = WeightStream(sum(counts), tail)

    def log_mixture(self, log_parts: Tensor) -> Tensor:
        """ln q of the mixture (n, ...), from that of its parts (parts, n, ...)."""
        drawn = [part for part, count in enumerate(self.counts) if count]
        shares = log_parts.new_tensor([self.counts[part] for part in drawn]) / sum(self.counts)
        return (log_parts[drawn] + shares.log().view(-1, *[1] * (log_parts.dim() - 1))).logsumexp(0)

    def add(self, part: int, start: int, draws: _Draws) -> None:
        """Take what it wants of a chunk that begins with a part's particle number `start`."""
        wanted = max(0, min(len(draws.log_joint), self.counts[part] - start))
        if wanted:
            self.weights.add(draws.log_joint[:wanted] - self.log_mixture(draws.log_parts[:, :wanted]))


_WIDENING, _WIDENED_NUMBERS = 3.0, 12  # factor of a key's deviations, and the most numbers of such a key


@dataclass(frozen=True)
class Move:
    """Where normals of mean m and deviation s go: to m + s shift, of deviation s exp(log_scale); (B, T, *event).

    A distribution that knows no moments of its own, such as a flow, is replaced as if they were 0 and 1.
    """

    shift: Tensor
    log_scale: Tensor


class MoveNormals(Messenger):
    """Moves the normal distributions at named sites of whatever program runs inside it; puts normals for others."""

    def __init__(self, moves: Mapping[str, Move]) -> None:
        super().__init__()
        self.moves = moves

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.moves:
            move, fn = self.moves[msg["name"]], msg["fn"]
            mean, deviation = moments(fn) or (0.0, 1.0)
            normal = Normal(mean + deviation * move.shift, deviation * move.log_scale.exp())
            msg["fn"] = normal.to_event(fn.event_dim)


@torch.no_grad()
def widened_proposal(model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None) -> Proposal:
    """The guide, the guide with its normal keys widened, and a little of the prior: for images that were written.

    Where reads are flat inside a block, so is the true posterior of a key, and a normal that stays clear of the edges
    leaves most of it to its tails: weights from it alone have k-hat near one. Keys of many numbers stay as they are: a
    normal that is several times as wide hits nothing there. So do sites that are not normal, and the last one, the
    latent. Without any to widen this is `defensive_proposal`.
    """
    bound = amortized(guide, episode, memory)
    pair = trace_pair(model, bound, episode, memory)
    sites = tuple(latent_sites(model, bound, episode, memory))
    moves = {}
    for name in sites[:-1]:
        fn: Any = pair.guide.nodes[name]["fn"]
        if isinstance(base_distribution(fn), Normal) and fn.event_shape.numel() <= _WIDENED_NUMBERS:
            moves[name] = Move(torch.zeros_like(fn.mean), torch.full_like(fn.mean, math.log(_WIDENING)))
    if not moves:
        return defensive_proposal(model, bound, episode, memory)
    return Proposal((Part(0.69, bound), Part(0.3, MoveNormals(moves)(bound)), Part(0.01, bound, sites)))


def moments(fn: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of a distribution; of some, such as flows, there are none in closed form."""
    try:
        return fn.mean, fn.stddev
    except NotImplementedError:
        return None
