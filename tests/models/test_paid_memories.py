"""Kanerva++ whose memory has a prior, and is paid for: the training loss by hand, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn.functional import normalize
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from inference.objectives import make_objective
from inference.runs.trainer import annealed
from kpp_pyro.memory.blocks import cut_blocks
from kpp_pyro.priors import MEMORY_PRIORS
from models.pair import Pair
from tests.programs import off_start, random_episodes, small_pair

pytestmark = pytest.mark.usefixtures("as_in_a_run")
PAID = [name for name, kind in MEMORY_PRIORS.items() if kind.build is not None]
CLOSED = [name for name in PAID if MEMORY_PRIORS[name].closed_kl]
IMAGES, WEIGHT, SEED = 5, 0.3, 4


def paid_pair(memory_prior: str) -> Pair:
    return off_start(small_pair(memory_prior=memory_prior, episode_length=IMAGES))


def training_loss(pair: Pair, episode: Tensor, objective: str = "trace") -> Tensor:
    """The loss of a step of training, with the same noise at every call, and a weight of the memory's KL."""
    torch.manual_seed(SEED)
    return annealed(make_objective(objective)(pair.model, pair.guide))(episode, {"memory": WEIGHT})


@pytest.mark.parametrize(
    ("memory_prior", "objective"), [*((name, "trace") for name in PAID), *((name, "mean_field") for name in CLOSED)]
)
@torch.no_grad()
def test_the_loss_is_that_written_out_by_hand(memory_prior, objective):
    """-ln p(x_t | block t) + WEIGHT KL(q(M | X) || p(M)), the KL of a draw, or closed; other blocks are empty."""
    pair, episode = paid_pair(memory_prior).eval(), random_episodes(2, IMAGES)
    loss = training_loss(pair, episode, objective)
    encoding, prior = pair.guide.encode(episode), pair.model.block_prior
    torch.manual_seed(SEED)
    memory = pair.guide.memory_posterior(encoding).sample().squeeze(1)
    blocks, empty = cut_blocks(memory, pair.model.addressing.layout).flatten(2).split([IMAGES, 11], 1)
    assert not empty.any()
    q = Normal(encoding.latent_loc, encoding.latent_scale)  # of block t, (B, T, S)
    if objective == "trace":
        in_order = [prior.next_block(blocks[:, :n]).log_prob(blocks[:, n]) for n in range(IMAGES)]
        kl = q.log_prob(blocks).sum() - torch.stack(in_order).sum()
    else:
        kl = kl_divergence(q, Normal(0.0, 1.0)).sum()
    image = Bernoulli(logits=pair.model.decoder(blocks)).log_prob(episode).sum()
    torch.testing.assert_close(loss, WEIGHT * kl - image, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("memory_prior", PAID)
def test_gradients_of_the_loss_are_those_of_finite_differences(memory_prior):
    """In random directions of the parameters of prior, decoder, encoder and write; the order of blocks is random."""
    pair, episode, step = paid_pair(memory_prior), random_episodes(2, IMAGES), 1e-5
    generator = torch.Generator().manual_seed(2)
    training_loss(pair, episode).backward()
    parts = pair.model.block_prior, pair.model.decoder, pair.guide.encoder, pair.guide.write
    for parameters in ([*part.parameters()] for part in parts):
        for _ in range(3 if parameters else 0):  # a prior may have none
            start = parameters_to_vector(parameters).detach()
            direction = normalize(torch.randn(start.shape, dtype=start.dtype, generator=generator), dim=0)
            slope = parameters_to_vector([parameter.grad for parameter in parameters]) @ direction
            ends = []
            for end in (start + step * direction, start - step * direction, start):
                vector_to_parameters(end, parameters)
                ends.append(training_loss(pair, episode).detach())
            torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)
