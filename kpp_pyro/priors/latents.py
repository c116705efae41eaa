"""Priors of latents, p(z | M, y): networks from read blocks (..., R, C_m, h, w) to loc and scale (..., D)."""

from __future__ import annotations

from torch import nn

from kpp_pyro.networks.heads import IdentityReading, NoReading
from kpp_pyro.priors.interface import LATENT_PRIORS, LatentPriorKind, LatentPriorParts


def prior_from_memory(parts: LatentPriorParts) -> nn.Module:
    """N(read(M, y), sigma^2): the location is the read block or its signs."""
    return IdentityReading(parts.layout, parts.smallest_scale, parts.code)


def standard_normal_prior(parts: LatentPriorParts) -> nn.Module:
    """N(0, I), which does not depend on the read."""
    return NoReading(parts.latent_size)


def read_itself(parts: LatentPriorParts) -> nn.Module:
    """The latent is the read, so that it costs nothing beside the memory that it is read from."""
    return nn.Flatten(-4)


LATENT_PRIORS["memory"] = LatentPriorKind(prior_from_memory)
LATENT_PRIORS["read"] = LatentPriorKind(read_itself, is_point=True)
LATENT_PRIORS["standard_normal"] = LatentPriorKind(standard_normal_prior, reads=False)
