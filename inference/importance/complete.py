"""The complete score of an episode: ln p(X), in which the memory is paid for.

    p(X) = E_p(M) [prod_t p(x_t | M)]

Where image t is read from block t of the memory, a sequential Monte Carlo estimate takes one block after the other:

    p-hat(x_t | x_1 ... x_t-1) = 1/K sum_k p(x_t | M_t^k) p(M_t^k | M_1^k ... M_t-1^k) / q(M_t^k | x_t)

The K particles are drawn anew before each block, in proportion to these weights. The product over t is an unbiased
estimate of p(X), so that its log is a lower bound on average (Andrieu, Doucet & Holenstein 2010; Naesseth et al. 2018).
For other random memories, it is one importance-sampled estimate for a whole episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.importance.estimator import (
    WeightStream,
    defensive_proposal,
    importance_score,
    pareto_k_limit,
    standard_error,
)
from inference.tracing import PyroProgram, amortized, trace_pair
from kpp_pyro.distributions.block_memory import BlockMemory, written_blocks


@dataclass(frozen=True)
class CompleteScore:
    """Estimates of ln p(x_t | x_1 ... x_t-1) of B x T images, in nats; the sum over t is one of ln p(X).

    Attributes:
        log_likelihood: (B, T); where images are not estimated one after the other, 1/T of ln p-hat(X) each.
        elbo: the complete ELBO of each image, the memory's KL included, (B, T).
        pareto_k: k-hat of the weights of each image; of those of the episode, for each of its images, (B, T).
        effective_sample_size: of the same weights, (B, T).
        particles: K.
    """

    log_likelihood: Tensor
    elbo: Tensor
    pareto_k: Tensor
    effective_sample_size: Tensor
    particles: int

    @property
    def pareto_k_limit(self) -> float:
        """The largest k-hat with which an estimate from as many particles is reliable."""
        return pareto_k_limit(self.particles)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over images; images of an episode are not independent, episodes are."""
        return standard_error(self.log_likelihood.mean(1))


@torch.no_grad()
def complete_score(model: PyroProgram, guide: PyroProgram, episode: Tensor, particles: int) -> CompleteScore | None:
    """Estimate ln p(X) of episodes (B, T, C, H, W), one sequence of blocks after the other.

    Args:
        model: Pyro model.
        guide: its guide.
        episode: images; the estimate of image t depends on images 1 to t only, where blocks are taken in order.
        particles: K, draws of the memory of each episode.

    Returns:
        None where the memory is a function of the images, which has no density.
    """
    posterior = amortized(guide, episode)
    traces = trace_pair(model, posterior, episode)
    if "memory" not in traces.latent_sites():
        return None
    prior = _block_prior(traces.model.nodes["memory"])
    if prior is None:
        return _of_whole_episodes(model, posterior, episode, particles)
    return _of_blocks(model, posterior, episode, particles, prior)


def _block_prior(site: Any) -> BlockMemory | None:
    return site["fn"] if isinstance(site["fn"], BlockMemory) else None


def _of_whole_episodes(model: PyroProgram, guide: PyroProgram, episode: Tensor, particles: int) -> CompleteScore:
    score = importance_score(model, defensive_proposal(model, guide, episode), episode, particles=particles)
    images = episode.shape[1]

    def of_images(value: Tensor) -> Tensor:
        return value.unsqueeze(1).expand(-1, images)

    return CompleteScore(
        of_images(score.log_likelihood / images),
        score.elbo.elbo,
        of_images(score.pareto_k),
        of_images(score.effective_sample_size),
        particles,
    )


def _of_blocks(
    model: PyroProgram, guide: PyroProgram, episode: Tensor, particles: int, prior: BlockMemory
) -> CompleteScore:
    traces = trace_pair(model, guide, episode, particles=particles)
    log_probs, memory = traces.log_probs(), traces.value("memory").squeeze(-4)  # (K, B, C_m, H_m, W_m)
    posterior: Any = traces.guide.nodes["memory"]["fn"]
    own = log_probs.image - posterior.block_log_prob(traces.value("memory")).squeeze(-2)  # (K, B, T)
    own = own + sum(log_probs.prior[name] - log_probs.posterior[name] for name in log_probs.prior if name != "memory")
    blocks = written_blocks(memory, prior.layout, prior.written)  # (K, B, T, S)
    streams = []
    past = blocks[:, :, :0]
    for image in range(episode.shape[1]):
        block = blocks[:, :, image]
        log_weights = own[:, :, image] + prior.prior.next_block(past).log_prob(block)  # (K, B)
        streams.append(WeightStream(particles, tail=True))
        streams[-1].add(log_weights)
        ancestors = _resampled(log_weights)[..., None, None].expand(*block.shape[:2], image + 1, block.shape[-1])
        past = torch.cat([past, block.unsqueeze(2)], 2).gather(0, ancestors)
    return CompleteScore(
        torch.stack([stream.log_mean() for stream in streams], 1),
        (own + prior.prior(blocks)).mean(0),
        torch.stack([stream.pareto_k() for stream in streams], 1),
        torch.stack([stream.effective_sample_size() for stream in streams], 1),
        particles,
    )


def _resampled(log_weights: Tensor) -> Tensor:
    """Numbers (K, B) of the particles that go on, each as often as its share of the weights (K, B): systematically."""
    particles = len(log_weights)
    ends = log_weights.double().softmax(0).cumsum(0).mT.contiguous()  # (B, K)
    start = torch.rand(len(ends), 1, dtype=ends.dtype, device=ends.device)
    marks = (torch.arange(particles, dtype=ends.dtype, device=ends.device) + start) / particles
    return torch.searchsorted(ends, marks).clamp(max=particles - 1).mT
