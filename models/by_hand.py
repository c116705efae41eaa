"""The ELBO of Kanerva++ written out in PyTorch: what the program's speed and value are compared with.

Nothing of Pyro runs in it but the key's posterior as an object: its draw and its density are this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from kpp_pyro.memory.blocks import read
from models.kanerva_plus_plus import KanervaPlusPlusGuide, KanervaPlusPlusModel


def elbo_by_hand(
    model: KanervaPlusPlusModel,
    guide: KanervaPlusPlusGuide,
    episode: Tensor,
    kl_weights: Mapping[str, float] | Mapping[str, Tensor],
) -> Tensor:
    """ELBO of episodes (B, T, C, H, W) in nats, summed over them, of one draw.

    ln p(x|z) + w_key (ln p(y) - ln q(y|X, M)) + w_latent (ln p(z|M, y) - ln q(z|X)), with the networks of the pair, the
    draws in the guide's order, and the weights of the KLs by the names of their sites.
    """
    encoding = guide.encode(episode)
    memory = guide.write(encoding)
    key_posterior = guide.write.key_posterior(encoding)
    key = key_posterior.rsample()
    latent = encoding.latent_loc + encoding.latent_scale * torch.randn_like(encoding.latent_loc)
    loc, scale = model.reading(read(memory, key, model.addressing))
    key_terms = _log_normal(key, 0.0, None).sum() - key_posterior.log_prob(key).sum()
    latent_terms = _log_normal(latent, loc, scale) - _log_normal(latent, encoding.latent_loc, encoding.latent_scale)
    reconstruction = -F.binary_cross_entropy_with_logits(model.decoder(latent), episode, reduction="sum")
    return reconstruction + kl_weights["key"] * key_terms + kl_weights["latent"] * latent_terms.sum()


def _log_normal(value: Tensor, loc: Tensor | float, scale: Tensor | None) -> Tensor:
    """Log-density of every number under a normal, in nats; without a scale, of unit scale."""
    standard = value - loc if scale is None else (value - loc) / scale
    terms = standard.square() * -0.5 - 0.5 * math.log(2 * math.pi)
    return terms if scale is None else terms - scale.log()
