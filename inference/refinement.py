"""Refinement: a posterior for each image by itself, by SVI on variational parameters of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.poutine.messenger import Messenger
from torch import Tensor

from inference.importance import Part, Proposal, WeightedDraws, latent_sites, weighted_draws
from inference.objectives import make_objective
from inference.traces import PyroProgram, amortized, base_distribution, trace_pair

_FITTING_RATE, _SEARCHING_RATE = 0.03, 0.3  # of Adam, from a fitted guide and from a draw
_FOUND_SCALE, _FOUND_LAST_SCALE = 0.01, 0.3  # around a draw, in the prior's: of all sites, and of the last


@dataclass(frozen=True)
class Move:
    """Where normals of mean m and deviation s go: to m + s shift, of deviation s exp(log_scale); (B, T, *event)."""

    shift: Tensor
    log_scale: Tensor


class MoveNormals(Messenger):
    """Moves the normal distributions at named sites of whatever program runs inside it."""

    def __init__(self, moves: Mapping[str, Move]) -> None:
        super().__init__()
        self.moves = moves

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.moves:
            move, fn = self.moves[msg["name"]], msg["fn"]
            normal = Normal(fn.mean + fn.stddev * move.shift, fn.stddev * move.log_scale.exp())
            msg["fn"] = normal.to_event(fn.event_dim)


def refine(
    model: PyroProgram,
    guide: PyroProgram,
    start: Mapping[str, Move],
    episode: Tensor,
    memory: Tensor | None = None,
    *,
    steps: int,
    learning_rate: float,
) -> PyroProgram:
    """Maximise each image's own ELBO over where its own normals go, for all B x T images at once.

    Args:
        model: Pyro model; its parameters stay as they are.
        guide: a program for these very images, see `amortized`; sites that `start` leaves out stay as they are.
        start: by site, where the normals begin.
        episode: images (B, T, C, H, W).
        memory: (B, 1, ...) to read from, if the guide is not to write.
        steps: of Adam.
        learning_rate: in standard deviations at the start; falls to zero.

    Returns:
        The guide with its normals moved.
    """
    shifts = {name: torch.zeros_like(move.shift, requires_grad=True) for name, move in start.items()}
    scales = {name: torch.zeros_like(move.log_scale, requires_grad=True) for name, move in start.items()}
    parameters = [*shifts.values(), *scales.values()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    objective: Any = make_objective("mean_field")  # less noise than sampled KLs, which matters near an optimum

    def moved() -> PyroProgram:
        return MoveNormals(
            {
                name: Move(move.shift + move.log_scale.exp() * shifts[name], move.log_scale + scales[name])
                for name, move in start.items()
            }
        )(guide)

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        with torch.enable_grad():
            loss = objective.differentiable_loss(model, moved(), episode, memory)  # a sum: images do not mix
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
    with torch.no_grad():
        return moved()


@torch.no_grad()
def refined_proposal(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None, steps: int = 300
) -> Proposal:
    """The guide, the guide refined within its own family, and a little of the prior.

    The ELBOs of its first two parts and ln p-hat_K split the inference gap (Cremer, Li & Duvenaud 2018): the
    amortisation gap is the second ELBO minus the first, the approximation gap ln p(x|M) minus the second. Sites whose
    posterior is not normal stay as they are.
    """
    bound = amortized(guide, episode, memory)
    sites = tuple(latent_sites(model, bound, episode, memory))
    pair = trace_pair(model, bound, episode, memory)
    start = {}
    for name in sites:
        fn: Any = pair.guide.nodes[name]["fn"]
        if isinstance(base_distribution(fn), Normal):
            start[name] = Move(torch.zeros_like(fn.mean), torch.zeros_like(fn.mean))
    refined = refine(model, bound, start, episode, memory, steps=steps, learning_rate=_FITTING_RATE)
    return Proposal((Part(0.49, bound), Part(0.5, refined), Part(0.01, bound, sites)))


@torch.no_grad()
def searching_proposal(
    model: PyroProgram,
    guide: PyroProgram,
    episode: Tensor,
    memory: Tensor,
    pilots: int = 300,
    steps: int = 100,
) -> Proposal:
    """A proposal that looks for what a memory holds that is like an image which may not be in it.

    Its pilots are the guide's cues, cues with what they read, p(z|M,y), and the prior. The pilot of greatest weight is
    where a refinement starts, of the model's own prior moved there: z stays relative to what y reads, so that no key
    is a catastrophe. All of them make up the mixture, so that the weights stay bounded.

    Args:
        model: Pyro model with normal priors.
        guide: its guide.
        episode: cues (B, T, C, H, W).
        memory: (B, 1, ...).
        pilots: draws to choose from.
        steps: of refinement.
    """
    bound = amortized(guide, episode, memory)
    sites = tuple(latent_sites(model, bound, episode, memory))
    parts = (Part(0.2, bound), Part(0.3, bound, sites[-1:]), Part(0.5, bound, sites))
    draws = weighted_draws(model, Proposal(parts), episode, memory, particles=pilots)
    moved_prior = poutine.block(model, expose=list(sites))
    start = _around_best(model, draws, episode, memory)
    refined = refine(model, moved_prior, start, episode, memory, steps=steps, learning_rate=_SEARCHING_RATE)
    return Proposal((Part(0.7, refined), *(Part(0.3 * part.share, part.guide, part.from_prior) for part in parts)))


def _around_best(model: PyroProgram, draws: WeightedDraws, episode: Tensor, memory: Tensor) -> dict[str, Move]:
    """Moves of the model's prior to the surroundings of every image's draw of greatest weight."""
    best = draws.log_weights.argmax(0, keepdim=True)  # (1, B, T)
    values = {}
    for name, value in draws.values.items():
        index = best.view(*best.shape, *[1] * (value.dim() - 3)).expand(1, *value.shape[1:])
        values[name] = value.gather(0, index)[0]  # (B, T, *event)
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(episode, memory)
    moves = {}
    for name, value in values.items():
        fn: Any = trace.nodes[name]["fn"]
        scale = _FOUND_LAST_SCALE if name == list(values)[-1] else _FOUND_SCALE
        moves[name] = Move((value - fn.mean) / fn.stddev, torch.full_like(value, math.log(scale)))
    return moves
