"""Annealed importance sampling of ln p(x | M), where one normal is all that is random of an image.

    q_j(z) ~ q(z)^(1 - b_j) p(x, z | M)^b_j,                   0 = b_0 < b_1 < ... < b_J = 1
    ln w   = sum_j (b_j - b_j-1) [ln p(x, z_j-1 | M) - ln q(z_j-1)]

z_0 is drawn from q, the guide refined for the image, and z_j from z_j-1 by a Hamiltonian step that leaves q_j
invariant. E[w] = p(x | M) for any number of temperatures J; with more, the weights vary less (Neal 2001). For decoders:
Wu, Burda, Salakhutdinov & Grosse 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Normal
from torch import Tensor

from inference.importance.estimator import (
    PARTICLE_IMAGES_AT_ONCE,
    ImportanceScore,
    Proposal,
    WeightStream,
    bound_steps,
    importance_score,
)
from inference.tracing import PyroProgram, TracedPair, base_distribution, in_particle_plate, trace_pair, traced
from kpp_pyro.errors import InputError

_LEAPFROG_STEPS = 5  # of each Hamiltonian step
_PILOTS = 16  # particles that adapt the step sizes, and are not used for anything else
_FIRST_STEP_SIZE = 0.3  # in deviations of q
_ACCEPTANCE, _ADAPTATION = 0.7, 0.1  # wanted share of accepted steps, and by how much the log of the size follows it
_STEEPNESS = 4.0  # temperatures are dense near 0 and 1: a sigmoid between -4 and 4


@torch.no_grad()
def annealed_score(
    model: PyroProgram,
    proposal: Proposal,
    episode: Tensor,
    memory: Tensor | None = None,
    *,
    particles: int,
    temperatures: int,
    at_once: int = PARTICLE_IMAGES_AT_ONCE,
) -> ImportanceScore:
    """Estimate ln p(x | M) of every image with K chains each. The ELBOs are those of `importance_score`.

    Args:
        model: Pyro model whose sites of an image are one vector, and "image".
        proposal: see `refined_proposal`; its second part, the refined guide, starts the chains.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read from, if any.
        particles: K.
        temperatures: J, at least 1. With one, this is importance sampling from the refined guide.
        at_once: most particles times images in one pass.

    Raises:
        InputError: more than one latent site, or one whose posterior is no normal.
    """
    posterior = _Posterior(model, proposal.parts[1].guide, episode, memory)
    sampled = importance_score(model, proposal, episode, memory, particles=particles)
    levels = torch.linspace(-_STEEPNESS, _STEEPNESS, temperatures + 1).sigmoid()
    levels = ((levels - levels[0]) / (levels[-1] - levels[0])).to(episode)
    _, step_sizes = _anneal(posterior, _PILOTS, levels)
    chunk = max(1, at_once // (episode.shape[0] * episode.shape[1]))
    counts = [min(chunk, particles - start) for start in range(0, particles, chunk)]
    log_weights = torch.cat([_anneal(posterior, count, levels, step_sizes)[0] for count in counts])
    weights = _stream(log_weights)
    return replace(
        sampled,
        log_likelihood=weights.log_mean(),
        monte_carlo_error=weights.monte_carlo_error(),
        effective_sample_size=weights.effective_sample_size(),
        pareto_k=weights.pareto_k(),
        bounds={step: _stream(log_weights[:step]).log_mean() for step in bound_steps(particles)},
    )


def require_one_normal(traces: TracedPair) -> str:
    """The only latent site of an image, from a run of model and guide.

    Raises:
        InputError: more than one latent site, or one whose posterior is no normal.
    """
    sites = traces.latent_sites()
    fn: Any = traces.guide.nodes[sites[-1]]["fn"] if sites else None
    if len(sites) != 1 or not isinstance(base_distribution(fn), Normal):
        found = ", ".join(sites) or "nothing"
        raise InputError(f"temperatures: expected one normal to be all that is random of an image, found {found}")
    return sites[0]


def _stream(log_weights: Tensor) -> WeightStream:
    stream = WeightStream(len(log_weights), tail=True)
    stream.add(log_weights)
    return stream


def _anneal(
    posterior: _Posterior, particles: int, levels: Tensor, step_sizes: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Log-weights (K, B, T) in nats, and the step sizes (B, T) of each temperature: the given ones, or adapted ones.

    Adapted to the same chains, step sizes would bias the weights a little.
    """
    states = posterior.at(torch.randn(particles, *posterior.loc.shape).to(posterior.loc))
    log_weights = torch.zeros_like(states.log_joint, dtype=torch.float64)
    used = [torch.full_like(posterior.loc[..., 0], _FIRST_STEP_SIZE)]
    for number, level in enumerate(levels[1:]):
        log_weights += (level - levels[number]).double() * (states.log_joint - states.log_start).double()
        if number + 2 < len(levels):
            size = used[-1] if step_sizes is None else step_sizes[number]
            states, accepted = _hamiltonian_step(posterior, states, level, size)
            used.append(size * (_ADAPTATION * (accepted.to(size).mean(0) - _ACCEPTANCE)).exp())
    return log_weights, used if step_sizes is None else step_sizes


def _hamiltonian_step(
    posterior: _Posterior, start: _States, level: Tensor, step_size: Tensor
) -> tuple[_States, Tensor]:
    """Next states of chains that leave q_j invariant, and which were accepted, bool (K, B, T).

    Leapfrog steps of sizes within 20 % of `step_size` (B, T), each chain with one size, so that no period is matched.
    """
    size = step_size * torch.empty_like(start.log_joint).uniform_(0.8, 1.2)
    size, states = size.unsqueeze(-1), start
    momentum = torch.randn_like(start.points)
    energy = 0.5 * momentum.square().sum(-1) - start.log_target(level)
    for _ in range(_LEAPFROG_STEPS):
        momentum = momentum + 0.5 * size * states.slope(level)
        states = posterior.at(states.points + size * momentum)
        momentum = momentum + 0.5 * size * states.slope(level)
    change = 0.5 * momentum.square().sum(-1) - states.log_target(level) - energy
    accepted = torch.rand_like(change).log() < -change  # not where the change is NaN
    return states.where(accepted, start), accepted


@dataclass(frozen=True)
class _States:
    """Points of chains, with their log-densities and slopes.

    Attributes:
        points: (K, B, T, D), in deviations of q from its mean.
        log_joint: ln p(x, z | M) in nats, (K, B, T).
        log_start: ln q(z) in nats, (K, B, T).
        slopes: gradient of ln p(x, z | M) in the points, (K, B, T, D).
    """

    points: Tensor
    log_joint: Tensor
    log_start: Tensor
    slopes: Tensor

    def log_target(self, level: Tensor) -> Tensor:
        """ln q_j up to a constant, (K, B, T)."""
        return torch.lerp(self.log_start, self.log_joint, level)

    def slope(self, level: Tensor) -> Tensor:
        """Gradient of ln q_j, (K, B, T, D); that of ln q is minus the points."""
        return torch.lerp(-self.points, self.slopes, level)

    def where(self, chosen: Tensor, other: _States) -> _States:
        """These states where `chosen`, bool (K, B, T), and elsewhere the others."""
        of_points = chosen.unsqueeze(-1)
        return _States(
            torch.where(of_points, self.points, other.points),
            torch.where(chosen, self.log_joint, other.log_joint),
            torch.where(chosen, self.log_start, other.log_start),
            torch.where(of_points, self.slopes, other.slopes),
        )


class _Posterior:
    """p(x, z | M) and the normal q(z) of images whose only latent site is z.

    Attributes:
        loc: mean of q, (B, T, D).
    """

    def __init__(self, model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None) -> None:
        self.model, self.arguments = model, (episode, memory)
        traces = trace_pair(model, guide, episode, memory)
        self.site = require_one_normal(traces)
        fn: Any = traces.guide.nodes[self.site]["fn"]
        self.loc, self.scale = fn.mean, fn.stddev
        self.log_volume = (self.scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)  # (B, T)

    def at(self, points: Tensor) -> _States:
        """States at points (K, B, T, D)."""
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            conditioned = poutine.condition(self.model, data={self.site: self.loc + self.scale * points})
            trace: Any = traced(in_particle_plate(conditioned, len(points)), *self.arguments)
            trace.compute_log_prob()
            log_joint = trace.nodes["image"]["log_prob"] + trace.nodes[self.site]["log_prob"]
            slopes = torch.autograd.grad(log_joint.sum(), points)[0]
        points = points.detach()
        log_start = -0.5 * points.square().sum(-1) - self.log_volume
        return _States(points, log_joint.detach(), log_start, slopes)
