"""Priors that a configuration may name: p(y) of keys, and p(z | M, y) of the latents of Kanerva++."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from kpp_pyro.priors.interface import KeyPrior, LatentPriorParts
from kpp_pyro.priors.keys import FlowPrior, LearnedGaussianPrior, StandardNormalPrior, VampPrior
from kpp_pyro.priors.latents import prior_from_memory, standard_normal_prior

KEY_PRIORS: dict[str, type[KeyPrior]] = {
    "standard_normal": StandardNormalPrior,
    "learned_gaussian": LearnedGaussianPrior,
    "vamp": VampPrior,
    "flow": FlowPrior,
}
LATENT_PRIORS: dict[str, Callable[[LatentPriorParts], nn.Module]] = {
    "memory": prior_from_memory,
    "standard_normal": standard_normal_prior,
}
