"""Proposals fitted to each image: a guide refined by SVI, a normal at the mode (Laplace), and a memory search."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import MultivariateNormal, Normal
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import NonlocalExit
from torch import Tensor

from inference.importance.estimator import (
    PARTICLE_IMAGES_AT_ONCE,
    Move,
    MoveNormals,
    Part,
    Proposal,
    WeightedDraws,
    latent_sites,
    moments,
    weighted_draws,
)
from inference.tracing import (
    PyroProgram,
    amortized,
    base_distribution,
    in_particle_plate,
    kl_term,
    site_value,
    terms_of,
    trace_pair,
    traced,
)

_REFINING_RATE, _SEARCHING_RATE = 0.03, 0.1  # Adam's learning rate, from a fitted guide and from a single draw
_MOMENT_DRAWS = 256  # draws that estimate a standard deviation
_MOST_LAPLACE_NUMBERS = 256  # of a latent whose curvature is computed, which takes twice as many gradients
_MODE_STEPS, _MODE_RATE = 100, 0.1  # of Adam, in deviations of the refined normal
_CURVATURE_STEP = 0.03  # of the differences of gradients, in deviations of the refined normal
_START_SCALE = 0.001  # relative to the prior's scale, at all sites but the last: a read may change fast with its key


def refine(
    model: PyroProgram,
    guide: PyroProgram | None,
    start: Mapping[str, Move],
    episode: Tensor,
    memory: Tensor | None = None,
    *,
    steps: int,
    learning_rate: float,
) -> dict[str, Move]:
    """Maximise each image's ELBO over its own normals, for all B x T images at once.

    Args:
        model: Pyro model; its parameters are not changed.
        guide: a program for the given images, see `amortized`. Sites that are not in `start` are not changed. Such a
            site must be reparametrised, or must not depend on parameters. None for the model's own prior, moved.
        start: initial normals by site, (B, T, *event); (K, B, T, *event) under a plate of K particles.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read from; None if the guide writes.
        steps: number of Adam steps.
        learning_rate: initial learning rate, in initial standard deviations; decreases linearly to zero.

    Returns:
        The refined normals, by site.
    """
    if not start:
        return {}
    shifts = {name: torch.zeros_like(move.shift, requires_grad=True) for name, move in start.items()}
    scales = {name: torch.zeros_like(move.log_scale, requires_grad=True) for name, move in start.items()}
    parameters = [*shifts.values(), *scales.values()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)

    def moves() -> dict[str, Move]:
        return {
            name: Move(move.shift + move.log_scale.exp() * shifts[name], move.log_scale + scales[name])
            for name, move in start.items()
        }

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        with torch.enable_grad():
            loss = _negative_elbo(model, guide, MoveNormals(moves()), episode, memory)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
    with torch.no_grad():
        return moves()


def _negative_elbo(
    model: PyroProgram, guide: PyroProgram | None, move: MoveNormals, episode: Tensor, memory: Tensor | None
) -> Tensor:
    """-ELBO of a moved guide in nats, summed over the images, which are independent; see `refine`.

    KLs are in closed form where there is one: they reduce gradient variance, which matters near an optimum.
    """
    posteriors: dict[str, Any]
    priors: dict[str, Any]
    if guide is None:  # one run of the model draws from the moved priors, and sees the priors themselves
        trace = traced(move(model), episode, memory)
        priors = move.replaced
        posteriors = {name: trace.nodes[name]["fn"] for name in priors}
    else:
        traces = trace_pair(model, move(guide), episode, memory)
        trace, sites = traces.model, traces.latent_sites()
        priors = {name: trace.nodes[name]["fn"] for name in sites}
        posteriors = {name: traces.guide.nodes[name]["fn"] for name in sites}
    likelihood: Any = trace.nodes["image"]["fn"]
    loss = -likelihood.log_prob(site_value(trace, "image")).sum()
    for name, prior in priors.items():
        loss = loss + kl_term(posteriors[name], prior, site_value(trace, name)).sum()
    return loss


@torch.no_grad()
def refined_proposal(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None, steps: int = 300
) -> Proposal:
    """The guide, the guide refined for each image within its own family, and a small share of the prior.

    Where one normal is all that is random of an image, such as the latent of `vae`, half of the draws are from a normal
    with the mode and the curvature of its true posterior (Laplace's method): it has the correlations that the guide's
    family lacks.

    Inference gap (Cremer, Li & Duvenaud 2018) = amortisation gap + approximation gap.
    Amortisation gap = refined ELBO - ELBO: of the second and of the first part.
    Approximation gap = ln p(x|M) - refined ELBO; it includes the error of an incomplete optimisation.

    Sites whose posterior is not normal are not refined.

    Args:
        model: Pyro model.
        guide: its guide.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read from; None if the guide writes.
        steps: number of Adam steps.
    """
    posterior = amortized(guide, episode, memory)
    sites = tuple(latent_sites(model, posterior, episode, memory))
    traces = trace_pair(model, posterior, episode, memory)
    start = {}
    for name in sites:
        fn: Any = traces.guide.nodes[name]["fn"]
        if isinstance(base_distribution(fn), Normal):
            start[name] = Move(torch.zeros_like(fn.mean), torch.zeros_like(fn.mean))
    moves = refine(model, posterior, start, episode, memory, steps=steps, learning_rate=_REFINING_RATE)
    refined, prior = MoveNormals(moves)(posterior), Part(0.01, posterior, sites)
    if sites == tuple(start) and len(sites) == 1 and fn.event_shape.numel() <= _MOST_LAPLACE_NUMBERS:
        normals = {sites[0]: laplace(model, refined, sites[0], episode, memory)}
        laplaces = Part(0.5, ReplaceSites(normals)(posterior))
        return Proposal((Part(0.25, posterior), Part(0.24, refined), laplaces, prior))
    return Proposal((Part(0.49, posterior), Part(0.5, refined), prior))


class ReplaceSites(Messenger):
    """Replaces the distributions at named sites of a program.

    Args:
        distributions: by site, of batch shape (B, T).
    """

    def __init__(self, distributions: Mapping[str, Any]) -> None:
        super().__init__()
        self.distributions = distributions

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.distributions:
            msg["fn"] = self.distributions[msg["name"]]


def laplace(
    model: PyroProgram, guide: PyroProgram, site: str, episode: Tensor, memory: Tensor | None = None
) -> MultivariateNormal:
    """The normal with the mode and the curvature of p(site | x, M), batch (B, T): Laplace's method.

    The mode is found by Adam and a step of Newton's method, the curvature by differences of gradients. In no direction
    is the normal wider than 3 of the guide's deviations, so that a curvature of the wrong sign does no harm.

    Args:
        model: Pyro model, whose sites of an image are `site`, a vector, and "image".
        guide: normal at this site, with the mean to start from.
        site: name of the site.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read from, if any.
    """
    fn: Any = trace_pair(model, guide, episode, memory).guide.nodes[site]["fn"]
    loc, scale = fn.mean, fn.stddev  # (B, T, D)

    def gradients(values: Tensor) -> Tensor:
        """Gradient of ln p(x, site | M), in deviations, at values (K, B, T, D) in deviations from the mean."""
        values = values.detach().requires_grad_()
        with torch.enable_grad():
            conditioned = poutine.condition(model, data={site: loc + scale * values})
            trace: Any = traced(in_particle_plate(conditioned, len(values)), episode, memory)
            trace.compute_log_prob()
            joint = trace.nodes["image"]["log_prob"] + trace.nodes[site]["log_prob"]
            return torch.autograd.grad(joint.sum(), values)[0]

    mode = torch.zeros_like(loc).unsqueeze(0).requires_grad_()
    optimizer = torch.optim.Adam([mode], lr=_MODE_RATE)
    for step in range(_MODE_STEPS):
        optimizer.param_groups[0]["lr"] = _MODE_RATE * (1 - step / _MODE_STEPS)
        mode.grad = -gradients(mode)
        optimizer.step()
    mode = mode.detach()
    values, vectors = torch.linalg.eigh(_curvature(gradients, mode))  # of (B, T, D, D)
    factor = vectors * values.clamp(min=1 / 9).rsqrt().unsqueeze(-2)  # of the covariance, in deviations
    newton = factor @ (factor.mT @ gradients(mode)[0].unsqueeze(-1))  # the last step to the mode
    lower = torch.linalg.qr((scale.unsqueeze(-1) * factor).mT).R.mT
    signs = lower.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return MultivariateNormal(loc + scale * (mode[0] + newton.squeeze(-1)), scale_tril=lower * signs)


def _curvature(gradients: Callable[[Tensor], Tensor], mode: Tensor) -> Tensor:
    """Minus the second derivatives, (B, T, D, D), at a mode (1, B, T, D), by central differences of gradients."""
    size = mode.shape[-1]
    steps = _CURVATURE_STEP * torch.eye(size, dtype=mode.dtype, device=mode.device).view(size, 1, 1, size)
    at_once = max(1, PARTICLE_IMAGES_AT_ONCE // mode[0, ..., 0].numel())
    columns = [(gradients(mode - part) - gradients(mode + part)) for part in steps.split(at_once)]
    differences = torch.cat(columns).movedim(0, -2) / (2 * _CURVATURE_STEP)
    return (differences + differences.mT) / 2


@torch.no_grad()
def searching_proposal(
    model: PyroProgram,
    guide: PyroProgram,
    episode: Tensor,
    memory: Tensor,
    pilots: int = 320,
    starts: int = 4,
    steps: int = 50,
) -> Proposal:
    """A proposal that searches a memory for the best read of an image that may not have been written to it.

    1. Pilot draws come from three parts: the guide; the guide's keys with z ~ p(z|M, y); and the prior.
    2. The pilots are divided into groups, and the pilot of largest weight in each group is chosen. Each refinement
       starts from a normal centred on that draw. The normal of z moves with the prior p(z|M, y), so that a wrong key
       does not make z improbable.
    3. The refinement with the best ELBO is continued.
    4. The proposal is a mixture of this refined normal and the three parts of step 1, which bound the importance
       weights.

    Args:
        model: Pyro model with normal priors.
        guide: its guide.
        episode: cues (B, T, C, H, W).
        memory: (B, 1, ...).
        pilots: number of pilot draws.
        starts: number of groups.
        steps: Adam steps of each group's refinement, and again of the best one.
    """
    posterior = amortized(guide, episode, memory)
    sites = tuple(latent_sites(model, posterior, episode, memory))
    parts = (Part(0.2, posterior), Part(0.3, posterior, sites[-1:]), Part(0.5, posterior, sites))
    draws = weighted_draws(model, Proposal(parts), episode, memory, particles=pilots)
    prior = prior_of(model, sites)
    start = _moves_to(model, _best_of_groups(draws, starts), episode, memory)
    grouped = in_particle_plate(model, starts), in_particle_plate(prior, starts)
    refined = refine(grouped[0], None, start, episode, memory, steps=steps, learning_rate=_SEARCHING_RATE)
    index = _elbo(*grouped, refined, episode, memory).argmax(0)  # (B, T)
    best = {name: Move(_pick(move.shift, index), _pick(move.log_scale, index)) for name, move in refined.items()}
    moves = refine(model, None, best, episode, memory, steps=steps, learning_rate=_SEARCHING_RATE)
    rest = (Part(0.3 * part.share, part.guide, part.from_prior) for part in parts)
    return Proposal((Part(0.7, MoveNormals(moves)(prior)), *rest))


def prior_of(model: PyroProgram, sites: Collection[str]) -> PyroProgram:
    """The model's prior of named sites, as a program that ends where all are drawn: no image is decoded."""

    def run(*arguments: Any) -> None:
        with suppress(NonlocalExit), _StopAfter(sites):
            model(*arguments)

    return poutine.block(run, expose=list(sites))


class _StopAfter(Messenger):
    """Raises Pyro's `NonlocalExit` once the named sites of a program are drawn."""

    def __init__(self, sites: Collection[str]) -> None:
        super().__init__()
        self.missing = set(sites)

    def _pyro_post_sample(self, msg: Any) -> None:
        self.missing.discard(msg["name"])
        if not self.missing:
            msg["continuation"] = self._stop  # after the other handlers have seen the site

    def _stop(self, msg: Any) -> None:
        raise NonlocalExit(msg)


def _best_of_groups(draws: WeightedDraws, groups: int) -> dict[str, Tensor]:
    """Values (groups, B, T, *event) of the draw of largest weight in each group of draws, for every image."""
    best = [draws.log_weights[group::groups].argmax(0) * groups + group for group in range(groups)]  # (B, T) each
    return {name: torch.stack([_pick(value, index) for index in best]) for name, value in draws.values.items()}


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Values (B, T, ...) at each image's index (B, T) into the first dimension of values (K, B, T, ...)."""
    shaped = index.view(1, *index.shape, *[1] * (values.dim() - 3)).expand(1, *values.shape[1:])
    return values.gather(0, shaped)[0]


def _moves_to(model: PyroProgram, values: dict[str, Tensor], episode: Tensor, memory: Tensor) -> dict[str, Move]:
    """Moves of the model's prior to values (K, B, T, *event)."""
    conditioned = in_particle_plate(poutine.condition(model, data=values), len(next(iter(values.values()))))
    trace = traced(conditioned, episode, memory)
    moves = {}
    for name, value in values.items():
        fn: Any = trace.nodes[name]["fn"]
        scale = 1.0 if name == list(values)[-1] else _START_SCALE
        known = moments(fn)
        if known is None:  # estimates differ between calls, and are good enough for a scale only
            moves[name] = Move(value, (scale * fn.sample((_MOMENT_DRAWS,)).std(0)).log())
        else:
            mean, deviation = known
            moves[name] = Move((value - mean) / deviation, torch.full_like(value, math.log(scale)))
    return moves


def _elbo(
    model: PyroProgram, prior: PyroProgram, moves: dict[str, Move], episode: Tensor, memory: Tensor, draws: int = 8
) -> Tensor:
    """ELBO (K, B, T) of each of K moved priors, averaged over draws."""
    moved = MoveNormals(moves)(prior)
    log_probs = (trace_pair(model, moved, episode, memory).log_probs() for _ in range(draws))
    return sum(terms_of(run).elbo for run in log_probs) / draws  # type: ignore[return-value]
