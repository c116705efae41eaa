"""Scores of many episodes and their controls; batches of episodes, sharded over processes.

- Batches: `Batch` and `batches_of`.
- Scores: `score_episodes`, and the tables' numbers from `summarize` and `inference_gap`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from inference.importance.annealing import annealed_score, require_one_normal
from inference.importance.complete import CompleteScore, complete_score
from inference.importance.estimator import (
    PARTICLE_IMAGES_AT_ONCE,
    ImportanceScore,
    Proposal,
    exact_score,
    importance_score,
    reliability,
    standard_error,
    widened_proposal,
)
from inference.importance.search import refined_proposal, searching_proposal
from inference.processes import SINGLE_PROCESS, Processes
from inference.tracing import (
    PyroProgram,
    Record,
    amortized,
    combine,
    concatenate,
    encoded,
    kl_term,
    own_randomness,
    seed_of,
    trace_pair,
    written_memory,
)
from kpp_pyro.errors import InputError

OWN = "own"
_REFINE_STEPS = 100  # of Adam, where a refined posterior is needed and no other number is given
MEANINGS = {
    OWN: "ln p(x_t | M(X)): the memory that the image's own episode wrote, this image among others",
    "left_out": "ln p(x_t | M(X without x_t)): the memory of the other images of its episode",
    "other": "ln p(x_t | M(X' without one)): the memory of another episode, of as many images as left out has",
    "empty": "ln p(x_t | M = 0): an empty memory; for a matrix memory, the mean of its prior",
}
PREDICTED = {
    "left_out": "ln p(x_t | M(X without x_t)): the image's block is drawn from the prior, after those of the others",
    "other": "ln p(x_t | M(X' without one)): its block is drawn after those of another episode, of as many images",
    "empty": "ln p(x_t): its block is drawn from the prior of a first block",
}  # where a prior of memories says what an image costs that was not written
COMPLETE = "ln p(X) / T, which includes the KL of the memory; by draws of the guide, not refined for each image"


# Batches


@dataclass(frozen=True)
class Batch:
    """B episodes to score together.

    Attributes:
        episode: images (B, T, C, H, W).
        counted: bool, (B, T), True for images that count; the others fill short episodes.
        before: the last episode of the previous batch, (1, T, C, H, W); None in the first batch.
        seed: the batch's own seed of all draws, independent of the process that scores it.
    """

    episode: Tensor
    counted: Tensor
    before: Tensor | None
    seed: int


def batches_of(episodes: Iterable[tuple[Tensor, Tensor]], seed: int) -> Iterator[Batch]:
    """Batches with seeds, from batches of images (B, T, C, H, W) and masks (B, T), True for images that count."""
    before: Tensor | None = None
    for number, (episode, counted) in enumerate(episodes):
        yield Batch(episode, counted, before, seed_of(seed, number))
        before = episode[-1:]


def previous_memories(memory: Tensor, previous: Tensor | None) -> Tensor | None:
    """Memory of the previous episode for each of B episodes, (B, ...).

    Args:
        memory: memories of the B episodes, (B, ...).
        previous: memory of the last episode of the previous batch, (1, ...). None in the first batch, whose first
            episode takes the memory of its last one.

    Returns:
        None where there is no other episode, or the memory has no scalars.
    """
    if (previous is None and len(memory) == 1) or not memory.numel():
        return None
    return torch.cat([memory[-1:] if previous is None else previous, memory[:-1]])


# Scores


@dataclass(frozen=True)
class ScoringPlan:
    """Numbers of particles and steps of a score.

    Attributes:
        particles: K.
        refine_steps: Adam steps that refine each image's posterior for its proposal; 0 for the guide alone.
        control_particles: K of the controls; 0 for no controls.
        temperatures: of annealed importance sampling; 0 for importance sampling.
    """

    particles: int = 1000
    refine_steps: int = 0
    control_particles: int = 200
    temperatures: int = 0


@dataclass(frozen=True)
class Scores:
    """Scores ln p(x | M) of N images, in nats.

    Attributes:
        by_memory: scores (N,) by the memory that the images are read from: "own", and the controls "left_out", "other"
            and "empty", see `MEANINGS`.
        seconds: time of each score.
        memory_kl: KL(q(M|X) || p(M)) / T in nats of each image's own memory, (N,); None where it is deterministic. The
            scores do not include it: they are conditional on a draw of the memory.
        complete: the scores that include the KL of the memory, (N,); None where it is deterministic.
    """

    by_memory: dict[str, ImportanceScore]
    seconds: dict[str, float]
    memory_kl: Tensor | None
    complete: CompleteScore | None

    def __repr__(self) -> str:
        """Number of images, and the mean of each score with its standard error over images."""
        means = [
            f"{name} {score.log_likelihood.mean():.2f} ± {score.standard_error:.2f}"
            for name, score in self.by_memory.items()
        ]
        return f"Scores(of {len(self.own.log_likelihood)} images, ln p(x | M) in nats per image: {', '.join(means)})"

    @property
    def own(self) -> ImportanceScore:
        """Scores of the images read from the memory that they were written to."""
        return self.by_memory[OWN]


@torch.no_grad()
def score_episodes(
    model: PyroProgram,
    guide: PyroProgram,
    episodes: Iterable[tuple[Tensor, Tensor]],
    plan: ScoringPlan,
    seed: int = 0,
    processes: Processes = SINGLE_PROCESS,
) -> Scores:
    """Score the counted images of many episodes, read from the memories of `MEANINGS`.

    Control "other" also holds T - 1 images, so that it has as many empty blocks as "left_out": an image that was not
    written may read an empty block.

    A single episode has no "other". An image alone in its episode has neither "other" nor "left_out". A memory of no
    scalars has no controls. A random memory is drawn once for each score. The scores depend neither on the number of
    processes nor on the random state, which is left unchanged.

    Args:
        model: Pyro model in which images are independent given the memory.
        guide: its guide.
        episodes: batches of images (B, T, C, H, W) and masks (B, T), True for images that count; the same in every
            process.
        plan: numbers of particles and steps.
        seed: seed of all draws.
        processes: processes that share the batches.

    Returns:
        Scores of the N counted images, in order, on the CPU; times are summed over all batches.

    Raises:
        InputError: see `importance_score`.
    """
    score_batch = partial(_score_batch, model, guide, plan)
    share = map if processes.count == 1 else processes.map
    scored = list(share(score_batch, batches_of(episodes, seed)))
    names = [name for name in MEANINGS if all(name in scores.by_memory for scores in scored)]
    kls = [scores.memory_kl for scores in scored if scores.memory_kl is not None]
    complete = [scores.complete for scores in scored if scores.complete is not None]
    timed = scored[0].seconds.keys() & {*names, "complete"}
    return Scores(
        {name: concatenate([scores.by_memory[name] for scores in scored]) for name in names},
        {name: sum(scores.seconds[name] for scores in scored) for name in (*MEANINGS, "complete") if name in timed},
        torch.cat(kls) if kls else None,
        concatenate(complete) if complete else None,
    )


def _score_batch(model: PyroProgram, guide: PyroProgram, plan: ScoringPlan, batch: Batch) -> Scores:
    """Scores of a batch's counted images; the first control's time includes writing the memories of all controls."""
    chosen, found, seconds = batch.counted.flatten(), {}, {}
    began = time.perf_counter()

    def note(name: str, score: Record) -> Record:
        nonlocal began
        seconds[name], began = time.perf_counter() - began, time.perf_counter()
        return _of_images(score, chosen)

    with own_randomness(batch.seed, batch.episode.device):
        own_guide = encoded(guide, batch.episode)
        sampled = sample_memory(model, own_guide, batch.episode)
        found[OWN] = note(OWN, _score_own(model, own_guide, batch.episode, sampled, plan))
        if plan.control_particles:
            cues = batch.episode.flatten(0, 1).unsqueeze(1)  # (B T, 1, C, H, W): each an episode of its own
            score_control = _control_scorer(model, guide, cues, plan)
            for name, memories in _control_memories(model, guide, own_guide, batch).items():
                found[name] = note(name, score_control(memories.flatten(0, 1)))
        if sampled is None:
            return Scores(found, seconds, None, None)
        complete = complete_score(model, own_guide, batch.episode, plan.particles)
        assert complete is not None
        complete = note("complete", complete)
    return Scores(found, seconds, _per_image(sampled.kl, batch)[chosen].cpu(), complete)


@dataclass(frozen=True)
class SampledMemory:
    """Draws of random memories, and their KLs.

    Attributes:
        value: memories (B, 1, ...).
        kl: KL(q(M|X) || p(M)) in nats, (B, 1); its estimate from this draw, where there is no closed form.
        is_all: whether nothing else is random, given the images.
    """

    value: Tensor
    kl: Tensor
    is_all: bool


@torch.no_grad()
def sample_memory(model: PyroProgram, guide: PyroProgram, episode: Tensor) -> SampledMemory | None:
    """Draw M ~ q(M | X) of episodes (B, T, C, H, W); None where the memory is deterministic."""
    traces = trace_pair(model, guide, episode)
    if "memory" not in traces.latent_sites():
        return None
    posterior: Any = traces.guide.nodes["memory"]["fn"]
    prior: Any = traces.model.nodes["memory"]["fn"]
    value = traces.value("memory")
    return SampledMemory(value, kl_term(posterior, prior, value), traces.latent_sites() == ["memory"])


def given_memory(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, sampled: SampledMemory | None
) -> tuple[PyroProgram, PyroProgram]:
    """Model and posterior of an episode's own images, with the draw of its memory as a given one, if it is random."""
    posterior = amortized(guide, episode)
    if sampled is None:
        return model, posterior
    data = {"memory": sampled.value}
    return poutine.condition(model, data=data), poutine.condition(posterior, data=data)


def _per_image(kl: Tensor, batch: Batch) -> Tensor:
    """1/T of the KLs (B, 1), for every image, (B T,)."""
    return (kl / batch.episode.shape[1]).expand(batch.episode.shape[:2]).flatten()


def _control_memories(
    model: PyroProgram, guide: PyroProgram, own_guide: PyroProgram, batch: Batch
) -> dict[str, Tensor]:
    """By control, a memory for every image, (B, T, 1, ...); `own_guide` is the guide of the batch's images alone."""
    own = written_memory(own_guide, batch.episode)  # (B, 1, ...)
    if not own.numel():
        return {}
    images = batch.episode.shape[1]
    controls = {"empty": _empty_memory(model, own_guide, batch.episode).unsqueeze(1).expand(-1, images, *own.shape[1:])}
    if images == 1:
        return controls
    controls["left_out"] = left_out = leave_one_out_memories(guide, batch.episode)
    before = None if batch.before is None else leave_one_out_memories(guide, batch.before)
    other = previous_memories(left_out, before)
    if other is not None:
        controls["other"] = other
    return controls


def _empty_memory(model: PyroProgram, guide: PyroProgram, episode: Tensor) -> Tensor:
    """Empty memories (B, 1, ...): zero, or the mean of p(M) of a matrix."""
    traces = trace_pair(model, guide, episode)
    has_blocks = getattr(model, "addressing", None) is not None
    if has_blocks or "memory" not in traces.latent_sites():
        return torch.zeros_like(traces.value("memory"))
    return traces.mean("memory")


def leave_one_out_memories(guide: PyroProgram, episode: Tensor) -> Tensor:
    """Memories (B, T, 1, ...) of episodes (B, T, C, H, W), T > 1: memory t is written from all images but image t."""
    images = episode.shape[1]
    index = torch.arange(images, device=episode.device)
    rest = index.expand(images, -1)[index[:, None] != index].view(images, images - 1)  # (T, T - 1)
    chunk = max(1, PARTICLE_IMAGES_AT_ONCE // (episode.shape[0] * images))
    written = [
        written_memory(guide, episode[:, part].flatten(0, 1)).unflatten(0, (len(episode), len(part)))
        for part in rest.split(chunk)
    ]
    return torch.cat(written, 1)


def _score_own(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, sampled: SampledMemory | None, plan: ScoringPlan
) -> ImportanceScore:
    """Score images read from their own memory; a random memory is sampled and given, so that they are independent."""
    temperatures = 0 if _predicts(model) else plan.temperatures  # its controls are annealed
    model, guide = given_memory(model, guide, episode, sampled)
    if sampled is not None and sampled.is_all:
        return exact_score(model, guide, episode, particles=plan.particles)
    if temperatures or plan.refine_steps:
        proposal = refined_proposal(model, guide, episode, steps=plan.refine_steps or _REFINE_STEPS)
    else:
        proposal = widened_proposal(model, guide, episode)
    return _estimate(model, proposal, episode, None, plan.particles, temperatures)


def _control_scorer(
    model: PyroProgram, guide: PyroProgram, cues: Tensor, plan: ScoringPlan
) -> Callable[[Tensor], ImportanceScore]:
    """Scores of cues (N, 1, C, H, W), which are encoded once, given control memories (N, 1, ...)."""
    following = next_image_of(model, guide, cues)
    of_cues = encoded(guide, cues) if following is None else guide

    def score(memory: Tensor) -> ImportanceScore:
        if following is None:
            program, proposal = model, searching_proposal(model, of_cues, cues, memory)
        else:
            program, posterior = following
            proposal = refined_proposal(program, posterior, cues, memory, steps=_REFINE_STEPS)
        return _estimate(program, proposal, cues, memory, plan.control_particles, plan.temperatures)

    return score


def _estimate(
    model: PyroProgram, proposal: Proposal, episode: Tensor, memory: Tensor | None, particles: int, temperatures: int
) -> ImportanceScore:
    """By annealed importance sampling, if there are temperatures, otherwise by importance sampling."""
    if not temperatures:
        return importance_score(model, proposal, episode, memory, particles=particles)
    return annealed_score(model, proposal, episode, memory, particles=particles, temperatures=temperatures)


@torch.no_grad()
def require_annealed(model: PyroProgram, guide: PyroProgram, episode: Tensor, plan: ScoringPlan) -> None:
    """Raise InputError unless annealed importance sampling applies to a score of the plan, by a look at an episode."""
    following = next_image_of(model, guide, episode)
    if following is None:
        require_one_normal(trace_pair(model, amortized(guide, episode), episode))
    elif plan.control_particles:
        require_one_normal(trace_pair(*following, episode, written_memory(guide, episode)))
    else:
        raise InputError("temperatures: expected control particles, whose scores are annealed, found none")


def next_image_of(model: Any, guide: Any, images: Tensor) -> tuple[PyroProgram, PyroProgram] | None:
    """Model and posterior of images (B, T, C, H, W) that are not written, where a prior of memories predicts them."""
    return (model.next_image, guide.next_image(images)) if _predicts(model) else None


def _predicts(model: Any) -> bool:
    """Whether a prior of memories predicts images that are not written."""
    return getattr(model, "block_prior", None) is not None


def summarize(score: ImportanceScore) -> dict[str, Any]:
    """Averages over N images in nats per image, with standard errors and diagnostics of the importance weights."""
    images = score.log_likelihood.numel()
    return {
        "log_likelihood_nats_per_image": score.log_likelihood.mean().item(),
        "log_likelihood_standard_error": score.standard_error,
        "monte_carlo_error_nats_per_image": score.monte_carlo_error.square().sum().sqrt().item() / images,
        **score.elbo.mean().as_dict(),
        **reliability(score.pareto_k, score.effective_sample_size, score.pareto_k_limit),
        "bounds": [
            {
                "particles": particles,
                "log_likelihood_nats_per_image": bound.mean().item(),
                "log_likelihood_standard_error": standard_error(bound),
            }
            for particles, bound in score.bounds.items()
        ],
    }


def inference_gap(score: ImportanceScore) -> dict[str, float]:
    """Amortisation and approximation gap of a score by `refined_proposal`, in nats per image.

    Amortisation gap + approximation gap = ln p-hat_K - ELBO. Sites whose q is not an independent normal (`low_rank`,
    `flow`) are not refined; their whole gap counts as approximation gap.
    """
    amortised, refined = (elbo.elbo for elbo in score.elbos[:2])
    return {
        "elbo_nats_per_image": amortised.mean().item(),
        "refined_elbo_nats_per_image": refined.mean().item(),
        "amortisation_gap_nats_per_image": (refined - amortised).mean().item(),
        "amortisation_gap_standard_error": standard_error(refined - amortised),
        "approximation_gap_nats_per_image": (score.log_likelihood - refined).mean().item(),
        "approximation_gap_standard_error": standard_error(score.log_likelihood - refined),
    }


def _of_images(score: Record, chosen: Tensor) -> Record:
    """Scores of the chosen images, bool (B T,), on the CPU."""
    return combine([score], lambda values: values[0].flatten()[chosen].cpu())
