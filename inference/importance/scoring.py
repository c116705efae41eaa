"""The score of a set of episodes, beside the controls that say what it means."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from inference.importance.estimator import (
    PARTICLE_IMAGES_AT_ONCE,
    ImportanceScore,
    importance_score,
    standard_error,
    widened_proposal,
)
from inference.importance.search import refined_proposal, searching_proposal
from inference.processes import SINGLE_PROCESS, Processes
from inference.tracing import PyroProgram, combine, concatenate, own_randomness, seed_of, trace_pair, written_memory

Found = TypeVar("Found")


@dataclass(frozen=True)
class Batch:
    """Episodes to score together.

    Attributes:
        episode: images (B, T, C, H, W).
        counted: which of them count, (B, T).
        before: the last episode of the batch before, (1, T, C, H, W); None in the first batch.
        seed: of all that is drawn for the batch; its own, whichever process scores it.
    """

    episode: Tensor
    counted: Tensor
    before: Tensor | None
    seed: int


def shard(
    episodes: Iterable[tuple[Tensor, Tensor]], seed: int, processes: Processes = SINGLE_PROCESS
) -> Iterator[Batch]:
    """Deal batches of images and of which of them count: of n processes each gets every n-th."""
    before: Tensor | None = None
    for number, (episode, counted) in enumerate(episodes):
        if number % processes.count == processes.rank:
            yield Batch(episode, counted, before, seed_of(seed, number))
        before = episode[-1:]


def of_all(value: Found, processes: Processes) -> list[Found]:
    """Values of all processes, in their order; every process has to call this."""
    return [value] if processes.count == 1 else processes.gather(value)


def synced(processes: Processes) -> AbstractContextManager[None]:
    """A block whose errors all processes meet together, see `Processes.sync_errors`."""
    return nullcontext() if processes.count == 1 else processes.sync_errors()


def gather(found: Sequence[Found], processes: Processes = SINGLE_PROCESS) -> list[Found]:
    """What every process found in its batches, in the order of the batches; every process has to call this."""
    hands = of_all(list(found), processes)
    return [hands[number % len(hands)][number // len(hands)] for number in range(sum(map(len, hands)))]


OWN = "own"
MEANINGS = {
    OWN: "ln p(x_t | M(X)): the memory that the image's own episode wrote, this image among others",
    "left_out": "ln p(x_t | M(X without x_t)): what the memory knows of an image that it has not seen",
    "other": "ln p(x_t | M(X' without one)): the memory of another episode, of as many images as in left_out",
    "empty": "ln p(x_t | M = 0): no memory at all; of a random memory, its prior's mean",
}
LARGEST_PARETO_K = 0.7  # above, an estimate is not to be trusted
TOLERATED_SHARE = 0.05  # of images above


@dataclass(frozen=True)
class ScoringPlan:
    """How to score.

    Attributes:
        particles: K.
        refine_steps: of each image's own posterior, which its proposal then holds; 0 leaves the guide as it is.
        control_particles: K of the controls; 0 leaves them out.
    """

    particles: int = 1000
    refine_steps: int = 0
    control_particles: int = 200


@dataclass(frozen=True)
class Scores:
    """Scores of N images.

    Attributes:
        by_memory: score of every image read from its own memory ("own") and from those of `MEANINGS`.
        seconds: time that each of them took.
        memory_kl: KL(q(M|X) || p(M)) of the own memory, where it is random, shared over the T images, (N,); it is no
            part of the scores, which are conditional on a draw of the memory.
    """

    by_memory: dict[str, ImportanceScore]
    seconds: dict[str, float]
    memory_kl: Tensor | None

    @property
    def own(self) -> ImportanceScore:
        """Score of the images read from the memory that they were written to."""
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
    """Score the counted images of many episodes, read from their own memory and from those of `MEANINGS`.

    "other" is written without one of its images too: in a memory of blocks an empty block explains strange images
    better than a full one, and the two controls would not compare. A single episode has no "other"; images alone in
    their episode have neither "other" nor "left_out", and a memory of no scalars has no control at all. A random memory
    is drawn once for each of them. The scores do not depend on how many processes share the batches, nor on the random
    state, which stays as it is.

    Args:
        model: Pyro model in which images are independent given the memory.
        guide: its guide.
        episodes: batches of images (B, T, C, H, W) and of which of them count (B, T); the same in every process.
        plan: how.
        seed: of the draws.
        processes: those that share the batches.

    Returns:
        Scores of the N counted images, in their order, on the CPU, with the times of the slowest process.
    """
    with synced(processes):
        dealt = [_score_batch(model, guide, batch, plan) for batch in shard(episodes, seed, processes)]
    batches = gather([scores.by_memory for scores in dealt], processes)
    whole = [name for name in MEANINGS if all(name in batch for batch in batches)]
    times = of_all([scores.seconds for scores in dealt], processes)
    memory_kls = [value for value in gather([scores.memory_kl for scores in dealt], processes) if value is not None]
    return Scores(
        {name: concatenate([batch[name] for batch in batches]) for name in whole},
        {name: max(sum(batch.get(name, 0.0) for batch in own) for own in times) for name in whole},
        torch.cat(memory_kls) if memory_kls else None,
    )


def _score_batch(model: PyroProgram, guide: PyroProgram, batch: Batch, plan: ScoringPlan) -> Scores:
    """Scores of the counted images of a batch; the first control's time has that of writing the memories of all."""
    chosen, found, seconds = batch.counted.flatten(), {}, {}
    began = time.perf_counter()

    def note(name: str, score: ImportanceScore) -> None:
        nonlocal began
        found[name] = _of_images(score, chosen)
        seconds[name], began = time.perf_counter() - began, time.perf_counter()

    with own_randomness(batch.seed, batch.episode.device):
        drawn = sample_memory(model, guide, batch.episode)
        note(OWN, _score_own(model, guide, batch.episode, drawn, plan))
        if plan.control_particles:
            for name, memories in _control_memories(model, guide, batch).items():
                note(name, _score_control(model, guide, batch.episode, memories, plan.control_particles))
    return Scores(found, seconds, None if drawn is None else _per_image(drawn.kl, batch)[chosen].cpu())


@dataclass(frozen=True)
class SampledMemory:
    """Random memories that episodes wrote, and what they cost.

    Attributes:
        value: (B, 1, ...).
        kl: KL(q(M|X) || p(M)) in nats, (B, 1); its estimate from this draw, where there is no closed form.
    """

    value: Tensor
    kl: Tensor


@torch.no_grad()
def sample_memory(model: PyroProgram, guide: PyroProgram, episode: Tensor) -> SampledMemory | None:
    """Draw the memories that episodes (B, T, C, H, W) write; None where they are deterministic, and written anew."""
    pair = trace_pair(model, guide, episode)
    if "memory" not in pair.latent_sites():
        return None
    posterior: Any = pair.guide.nodes["memory"]["fn"]
    prior: Any = pair.model.nodes["memory"]["fn"]
    value = pair.value("memory")
    try:
        kl = kl_divergence(posterior, prior)
    except NotImplementedError:
        kl = posterior.log_prob(value) - prior.log_prob(value)
    return SampledMemory(value, kl)


def _per_image(kl: Tensor, batch: Batch) -> Tensor:
    """1/T of KLs (B, 1) for every image, flat."""
    return (kl / batch.episode.shape[1]).expand(batch.episode.shape[:2]).flatten()


def _control_memories(model: PyroProgram, guide: PyroProgram, batch: Batch) -> dict[str, Tensor]:
    """Memories of the controls for every image, (B, T, 1, ...)."""
    own = written_memory(guide, batch.episode)  # (B, 1, ...)
    if not own.numel():
        return {}
    images = batch.episode.shape[1]
    controls = {"empty": _empty_memory(model, guide, batch.episode).unsqueeze(1).expand(-1, images, *own.shape[1:])}
    if images == 1:
        return controls
    controls["left_out"] = left_out = leave_one_out_memories(guide, batch.episode)
    before = None if batch.before is None else leave_one_out_memories(guide, batch.before)
    other = previous_memories(left_out, before)
    if other is not None:
        controls["other"] = other
    return controls


def _empty_memory(model: PyroProgram, guide: PyroProgram, episode: Tensor) -> Tensor:
    """A memory (B, 1, ...) that nothing was written to: its prior's mean, or zero if that is flat."""
    pair = trace_pair(model, guide, episode)
    return pair.mean("memory") if "memory" in pair.latent_sites() else torch.zeros_like(pair.value("memory"))


def leave_one_out_memories(guide: PyroProgram, episode: Tensor) -> Tensor:
    """Memories (B, T, 1, ...) that episodes (B, T, C, H, W) write, each without the image t that it is for; T > 1."""
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
    model: PyroProgram, guide: PyroProgram, episode: Tensor, drawn: SampledMemory | None, plan: ScoringPlan
) -> ImportanceScore:
    """Score images read from the memory that they wrote; a random one is given, so that they are independent."""
    memory = None if drawn is None else drawn.value
    proposal = (
        refined_proposal(model, guide, episode, memory, plan.refine_steps)
        if plan.refine_steps
        else widened_proposal(model, guide, episode, memory)
    )
    return importance_score(model, proposal, episode, memory, particles=plan.particles)


def _score_control(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, memories: Tensor, particles: int
) -> ImportanceScore:
    """Score every image (B, T, ...) with a memory of its own (B, T, 1, ...), as an episode of one cue."""
    cues, memory = episode.flatten(0, 1).unsqueeze(1), memories.flatten(0, 1)
    proposal = searching_proposal(model, guide, cues, memory)
    return importance_score(model, proposal, cues, memory, particles=particles)


def summarize(score: ImportanceScore) -> dict[str, Any]:
    """Averages over N images in nats per image, with their errors, and how far they can be trusted."""
    images = score.log_likelihood.numel()
    shaky = (~(score.pareto_k <= LARGEST_PARETO_K)).double().mean().item()  # one that is not known is not trusted
    return {
        "log_likelihood_nats_per_image": score.log_likelihood.mean().item(),
        "log_likelihood_standard_error": score.standard_error,
        "monte_carlo_error_nats_per_image": score.monte_carlo_error.square().sum().sqrt().item() / images,
        **score.elbo.mean().as_dict(),
        "effective_sample_size_median": score.effective_sample_size.median().item(),
        "pareto_k_median": score.pareto_k.nanmedian().item(),
        "pareto_k_above_0.7_share": shaky,
        "trustworthy": shaky <= TOLERATED_SHARE,
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
    """Split ln p-hat_K - ELBO of a score by `refined_proposal` into its gaps, in nats per image.

    Sites of q that are no independent normals (`low_rank`, `flow`) are not refined: all of their gap counts as
    approximation gap.
    """
    amortised, refined = (elbo.elbo for elbo in score.elbos)
    return {
        "elbo_nats_per_image": amortised.mean().item(),
        "refined_elbo_nats_per_image": refined.mean().item(),
        "amortisation_gap_nats_per_image": (refined - amortised).mean().item(),
        "amortisation_gap_standard_error": standard_error(refined - amortised),
        "approximation_gap_nats_per_image": (score.log_likelihood - refined).mean().item(),
        "approximation_gap_standard_error": standard_error(score.log_likelihood - refined),
    }


def _of_images(score: ImportanceScore, chosen: Tensor) -> ImportanceScore:
    """Scores of some of B x T images, flat, on the CPU."""
    return combine([score], lambda values: values[0].flatten()[chosen].cpu())


def previous_memories(memory: Tensor, previous: Tensor | None) -> Tensor | None:
    """Memory of the episode before each, (B, 1, ...); None where there is no other episode at all, or no memory."""
    if (previous is None and len(memory) == 1) or not memory.numel():
        return None
    return torch.cat([memory[-1:] if previous is None else previous, memory[:-1]])
