"""Refinement: a posterior for each image by itself, by SVI on variational parameters of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Normal
from torch import Tensor

from inference.importance.estimator import (
    Move,
    MoveNormals,
    Part,
    Proposal,
    WeightedDraws,
    latent_sites,
    moments,
    weighted_draws,
)
from inference.objectives import make_objective
from inference.tracing import (
    PLATE_NESTING,
    PyroProgram,
    amortized,
    base_distribution,
    in_particle_plate,
    terms_of,
    trace_pair,
    traced,
)
from kpp_pyro.fast_pyro import unrecorded_parameters

_FITTING_RATE, _SEARCHING_RATE = 0.03, 0.1  # of Adam, from a fitted guide and from a draw
_MOMENT_DRAWS = 256
_FOUND_SCALE = 0.001  # around a draw, of all sites but the last, in their prior's; a read may change fast with its key


def refine(
    model: PyroProgram,
    guide: PyroProgram,
    start: Mapping[str, Move],
    episode: Tensor,
    memory: Tensor | None = None,
    *,
    steps: int,
    learning_rate: float,
) -> dict[str, Move]:
    """Maximise each image's own ELBO over where its own normals go, for all B x T images at once.

    Args:
        model: Pyro model; its parameters stay as they are.
        guide: a program for these very images, see `amortized`; sites that `start` leaves out stay as they are. Those
            that cannot be reparametrised must not depend on parameters.
        start: by site, where the normals begin; (K, B, T, *event) if model and guide run under a plate of particles.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read from, if the guide is not to write.
        steps: of Adam.
        learning_rate: in standard deviations at the start; falls to zero.

    Returns:
        Where the normals end.
    """
    if not start:
        return {}
    shifts = {name: torch.zeros_like(move.shift, requires_grad=True) for name, move in start.items()}
    scales = {name: torch.zeros_like(move.log_scale, requires_grad=True) for name, move in start.items()}
    parameters = [*shifts.values(), *scales.values()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    # With closed KLs there is less noise, which matters near an optimum. There may be a plate of particles.
    objective: Any = make_objective("mean_field", PLATE_NESTING + 1)

    def moves() -> dict[str, Move]:
        return {
            name: Move(move.shift + move.log_scale.exp() * shifts[name], move.log_scale + scales[name])
            for name, move in start.items()
        }

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        with torch.enable_grad(), unrecorded_parameters():
            moved = MoveNormals(moves())(guide)
            loss = objective.differentiable_loss(model, moved, episode, memory)  # a sum: images do not mix
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
    with torch.no_grad():
        return moves()


@torch.no_grad()
def refined_proposal(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None, steps: int = 300
) -> Proposal:
    """The guide, the guide refined within its own family, and a little of the prior.

    The ELBOs of its first two parts and ln p-hat_K split the inference gap (Cremer, Li & Duvenaud 2018): the
    amortisation gap is the second ELBO minus the first, the approximation gap ln p(x|M) minus the second, which also
    holds what single-draw gradients leave undone. Sites whose posterior is not normal stay as they are.
    """
    bound = amortized(guide, episode, memory)
    sites = tuple(latent_sites(model, bound, episode, memory))
    pair = trace_pair(model, bound, episode, memory)
    start = {}
    for name in sites:
        fn: Any = pair.guide.nodes[name]["fn"]
        if isinstance(base_distribution(fn), Normal):
            start[name] = Move(torch.zeros_like(fn.mean), torch.zeros_like(fn.mean))
    moves = refine(model, bound, start, episode, memory, steps=steps, learning_rate=_FITTING_RATE)
    return Proposal((Part(0.49, bound), Part(0.5, MoveNormals(moves)(bound)), Part(0.01, bound, sites)))


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
    """A proposal that looks for what a memory holds that is like an image which may not be in it.

    Its pilots are the guide's cues, cues with what they read, p(z|M,y), and the prior. They are dealt out into groups;
    the pilot of greatest weight of each is where a refinement starts, of the model's own prior moved there: z stays
    relative to what y reads, so that no key is a catastrophe. The best of the refinements goes on. It and the three
    kinds of pilots make up the mixture, so that the weights stay bounded.

    Args:
        model: Pyro model with normal priors.
        guide: its guide.
        episode: cues (B, T, C, H, W).
        memory: (B, 1, ...).
        pilots: draws to choose from.
        starts: groups.
        steps: of the refinement of each group's best, and again of the best of all.
    """
    bound = amortized(guide, episode, memory)
    sites = tuple(latent_sites(model, bound, episode, memory))
    parts = (Part(0.2, bound), Part(0.3, bound, sites[-1:]), Part(0.5, bound, sites))
    draws = weighted_draws(model, Proposal(parts), episode, memory, particles=pilots)
    prior = poutine.block(model, expose=list(sites))
    found = _around(model, _best_of_groups(draws, starts), episode, memory)
    rivals = in_particle_plate(model, starts), in_particle_plate(prior, starts)
    found = refine(*rivals, found, episode, memory, steps=steps, learning_rate=_SEARCHING_RATE)
    best = _elbo(*rivals, found, episode, memory).argmax(0)  # (B, T)
    winner = {name: Move(_pick(move.shift, best), _pick(move.log_scale, best)) for name, move in found.items()}
    moves = refine(model, prior, winner, episode, memory, steps=steps, learning_rate=_SEARCHING_RATE)
    rest = (Part(0.3 * part.share, part.guide, part.from_prior) for part in parts)
    return Proposal((Part(0.7, MoveNormals(moves)(prior)), *rest))


def _best_of_groups(draws: WeightedDraws, groups: int) -> dict[str, Tensor]:
    """Values (groups, B, T, *event) of every image's draw of greatest weight among each of some groups of draws."""
    best = [draws.log_weights[group::groups].argmax(0) * groups + group for group in range(groups)]  # (B, T) each
    return {name: torch.stack([_pick(value, index) for index in best]) for name, value in draws.values.items()}


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Values (B, T, ...) at every image's own index (B, T) into the first dimension of (K, B, T, ...)."""
    shaped = index.view(1, *index.shape, *[1] * (values.dim() - 3)).expand(1, *values.shape[1:])
    return values.gather(0, shaped)[0]


def _around(model: PyroProgram, values: dict[str, Tensor], episode: Tensor, memory: Tensor) -> dict[str, Move]:
    """Moves of the model's prior to the surroundings of values (K, B, T, *event)."""
    held = in_particle_plate(poutine.condition(model, data=values), len(next(iter(values.values()))))
    trace = traced(held, episode, memory)
    moves = {}
    for name, value in values.items():
        fn: Any = trace.nodes[name]["fn"]
        scale = 1.0 if name == list(values)[-1] else _FOUND_SCALE
        known = moments(fn)
        if known is None:  # estimates differ from call to call: they say how wide to begin, and not where
            moves[name] = Move(value, (scale * fn.sample((_MOMENT_DRAWS,)).std(0)).log())
        else:
            mean, deviation = known
            moves[name] = Move((value - mean) / deviation, torch.full_like(value, math.log(scale)))
    return moves


def _elbo(
    model: PyroProgram, prior: PyroProgram, moves: dict[str, Move], episode: Tensor, memory: Tensor, draws: int = 8
) -> Tensor:
    """ELBO (K, B, T) of every one of K moved priors."""
    moved = MoveNormals(moves)(prior)
    runs = (trace_pair(model, moved, episode, memory).log_probs() for _ in range(draws))
    return sum(terms_of(run).elbo for run in runs) / draws  # type: ignore[return-value]
