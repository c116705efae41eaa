"""The ELBO of Kanerva++ in plain PyTorch, a reference for the value and the speed of the Pyro program.

Pyro does not trace it. Only the key's posterior is a distribution object, whose sampler and density are this project's;
so is the density of pixels, `log_bernoulli`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from kpp_pyro.likelihoods.bernoulli import log_bernoulli
from kpp_pyro.memory.blocks import read
from models.kanerva_plus_plus import KanervaPlusPlusGuide, KanervaPlusPlusModel


def elbo_by_hand(
    model: KanervaPlusPlusModel,
    guide: KanervaPlusPlusGuide,
    episode: Tensor,
    kl_weights: Mapping[str, float] | Mapping[str, Tensor],
) -> Tensor:
    """One-draw estimate of the ELBO of episodes (B, T, C, H, W) in nats, summed over episodes and images.

        ln p(x|z) + w_key (ln p(y) - ln q(y|X, M)) + w_latent (ln p(z|M, y) - ln q(z|X))

    Draws are made in the guide's order.

    Args:
        model: Kanerva++, with a standard normal key prior and Bernoulli pixels.
        guide: its guide.
        episode: (B, T, C, H, W).
        kl_weights: w by site, "key" and "latent".
    """
    encoding = guide.encode(episode)
    memory = guide.write(encoding)
    key_posterior = guide.write.key_posterior(encoding)
    key = key_posterior.rsample()
    latent = encoding.latent_loc + encoding.latent_scale * torch.randn_like(encoding.latent_loc)
    loc, scale = model.reading(read(memory, key, model.addressing))
    key_terms = _log_normal(key, 0.0, None).sum() - key_posterior.log_prob(key).sum()
    latent_terms = _log_normal(latent, loc, scale) - _log_normal(latent, encoding.latent_loc, encoding.latent_scale)
    reconstruction = log_bernoulli(model.decoder(latent), episode).sum()
    return reconstruction + kl_weights["key"] * key_terms + kl_weights["latent"] * latent_terms.sum()


def _log_normal(value: Tensor, loc: Tensor | float, scale: Tensor | None) -> Tensor:
    """Elementwise log-density of a normal, in nats; `scale` None means one."""
    standard = value - loc if scale is None else (value - loc) / scale
    terms = standard.square() * -0.5 - 0.5 * math.log(2 * math.pi)
    return terms if scale is None else terms - scale.log()
