"""The complete score of an episode: ln p(X), which includes the KL of the memory.

    p(X) = E_p(M) [prod_t p(x_t | M)]

Where block t is read for image t, a sequential Monte Carlo estimate takes one block after the other:

    p-hat(x_t | x_1 ... x_t-1) = 1/K sum_k p(x_t | M_t^k) p(M_t^k | M_1^k ... M_t-1^k) / q(M_t^k | x_t)

Before each further block, the K particles are drawn anew in proportion to these weights. The product over t is an
unbiased estimate of p(X), so that its log is a lower bound on average (Andrieu, Doucet & Holenstein 2010; Naesseth,
Linderman, Ranganath & Blei 2018). Other random memories are drawn whole, each with an estimate of its images:

    p-hat(X) = 1/L sum_l p(M^l) / q(M^l | X) prod_t p-hat(x_t | M^l)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from inference.importance.estimator import (
    PARTICLE_IMAGES_AT_ONCE,
    WeightStream,
    defensive_proposal,
    importance_score,
    pareto_k_limit,
    reliability,
    standard_error,
)
from inference.tracing import PyroProgram, amortized, trace_pair
from kpp_pyro.distributions.block_memory import BlockMemory, written_blocks


@dataclass(frozen=True)
class CompleteScore:
    """Estimates of ln p(x_t | x_1 ... x_t-1) of B x T images, in nats, whose sum over t is one of ln p(X).

    Where images are not taken one after the other, each has 1/T of ln p-hat(X), and the diagnostics of the L weights of
    its episode.

    Attributes:
        log_likelihood: ln p-hat_K, (B, T).
        elbo: the complete ELBO of each image, the memory's KL included, (B, T).
        pareto_k: k-hat of the weights; above `pareto_k_limit` the estimate is unreliable, (B, T).
        effective_sample_size: effective number of the weights, (B, T).
    """

    log_likelihood: Tensor
    elbo: Tensor
    pareto_k: Tensor
    effective_sample_size: Tensor


@torch.no_grad()
def complete_score(model: PyroProgram, guide: PyroProgram, episode: Tensor, particles: int) -> CompleteScore | None:
    """Estimate ln p(X) of episodes (B, T, C, H, W) with K = `particles` draws of each image.

    Of a memory that is drawn whole, there are L = sqrt(K) draws, with K / L draws of each image.

    Returns:
        None where the memory is a function of the images, which has no density.
    """
    posterior = amortized(guide, episode)
    traces = trace_pair(model, posterior, episode)
    if "memory" not in traces.latent_sites():
        return None
    prior: Any = traces.model.nodes["memory"]["fn"]
    if isinstance(prior, BlockMemory):
        return _of_blocks(model, posterior, episode, particles, prior)
    return _of_whole_episodes(model, posterior, episode, particles)


def _of_whole_episodes(model: PyroProgram, guide: PyroProgram, episode: Tensor, particles: int) -> CompleteScore:
    memories, images, elbos = math.isqrt(particles), episode.shape[1], []
    weights = WeightStream(memories, tail=True)
    for _ in range(memories):
        traces = trace_pair(model, guide, episode)
        log_probs, data = traces.log_probs(), {"memory": traces.value("memory")}
        ratio = log_probs.prior["memory"] - log_probs.posterior["memory"]  # (B, 1)
        given = poutine.condition(model, data=data), poutine.condition(guide, data=data)
        proposal = defensive_proposal(*given, episode)
        score = importance_score(given[0], proposal, episode, particles=particles // memories)
        weights.add((score.log_likelihood + ratio / images).sum(1).unsqueeze(0))
        elbos.append(score.elbo.elbo + ratio / images)
    found = weights.log_mean() / images, weights.pareto_k(), weights.effective_sample_size()
    of_images = [value.unsqueeze(1).expand(-1, images) for value in found]
    elbo = torch.stack(elbos).mean(0)
    return CompleteScore(of_images[0], elbo, of_images[1], of_images[2])


def _of_blocks(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, particles: int, prior: BlockMemory
) -> CompleteScore:
    own, blocks = _draw_blocks(model, guide, episode, particles, prior)
    past, streams = blocks[:, :, :0], []
    for image in range(episode.shape[1]):
        block = blocks[:, :, image]
        log_weights = own[:, :, image] + prior.prior.next_block(past).log_prob(block)  # (K, B)
        streams.append(WeightStream(particles, tail=True))
        streams[-1].add(log_weights)
        past = torch.cat([past, block.unsqueeze(2)], 2)
        past = past.gather(0, _resampled(log_weights)[..., None, None].expand_as(past))
    return CompleteScore(
        torch.stack([stream.log_mean() for stream in streams], 1),
        (own + prior.prior(blocks)).mean(0),
        torch.stack([stream.pareto_k() for stream in streams], 1),
        torch.stack([stream.effective_sample_size() for stream in streams], 1),
    )


def _draw_blocks(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, particles: int, prior: BlockMemory
) -> tuple[Tensor, Tensor]:
    """Weights of K draws without the memory's prior, (K, B, T) in nats, and the drawn blocks, (K, B, T, S)."""
    at_once = max(1, PARTICLE_IMAGES_AT_ONCE // (episode.shape[0] * episode.shape[1]))
    weights, blocks = [], []
    for start in range(0, particles, at_once):
        traces = trace_pair(model, guide, episode, particles=min(at_once, particles - start))
        log_probs, memory = traces.log_probs(), traces.value("memory")
        posterior: Any = traces.guide.nodes["memory"]["fn"]
        of_images = [name for name in log_probs.prior if name != "memory"]
        terms = [log_probs.prior[name] - log_probs.posterior[name] for name in of_images]
        weights.append(sum(terms, log_probs.image) - posterior.block_log_prob(memory).squeeze(-2))
        blocks.append(written_blocks(memory.squeeze(-4), prior.layout, prior.written))
    return torch.cat(weights), torch.cat(blocks)


def _resampled(log_weights: Tensor) -> Tensor:
    """Numbers (K, B) of the particles that go on, each as often as its share of the weights (K, B): systematically."""
    particles = len(log_weights)
    ends = log_weights.double().softmax(0).cumsum(0).mT.contiguous()  # (B, K)
    start = torch.rand(len(ends), 1, dtype=ends.dtype, device=ends.device)
    marks = (torch.arange(particles, dtype=ends.dtype, device=ends.device) + start) / particles
    return torch.searchsorted(ends, marks).clamp(max=particles - 1).mT


def summarize_complete(score: CompleteScore, particles: int, places: dict[str, Tensor]) -> dict[str, Any]:
    """Averages over N images in nats per image, with standard errors and diagnostics.

    Args:
        score: of the N images.
        particles: K.
        places: see `EpisodeSet.places`. There are averages by "position" and by "of_class_before" too, where they are
            of more than a few images.
    """
    position, of_class = places["position"], places["of_class_before"]
    return {
        "particles": particles,
        "log_likelihood_nats_per_image": score.log_likelihood.mean().item(),
        "log_likelihood_standard_error": standard_error(score.log_likelihood),
        "elbo_nats_per_image": score.elbo.mean().item(),
        **reliability(score.pareto_k, score.effective_sample_size, pareto_k_limit(particles)),
        "log_likelihood_by_position_nats_per_image": _means_by(position, score.log_likelihood),
        "elbo_by_position_nats_per_image": _means_by(position, score.elbo),
        "log_likelihood_by_images_of_class_before_nats_per_image": _means_by(of_class, score.log_likelihood),
        "elbo_by_images_of_class_before_nats_per_image": _means_by(of_class, score.elbo),
    }


def _means_by(numbers: Tensor, values: Tensor) -> list[float]:
    """Means of the values (N,) with number 0, 1, 2, ... in `numbers` (N,), up to the last number that is not rare."""
    counts = numbers.bincount()
    common = (counts >= counts.max() / 100).nonzero().flatten()
    return [values[numbers == number].mean().item() for number in range(int(common[-1]) + 1)]
