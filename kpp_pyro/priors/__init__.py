"""Priors that a configuration may name: p(y) of keys, and p(z | M, y) of the latents of Kanerva++.

A prior is a file here, which registers it, and a line below, which imports the file.
"""

import kpp_pyro.priors.keys
import kpp_pyro.priors.latents
from kpp_pyro.priors.interface import KEY_PRIORS, LATENT_PRIORS, KeyPrior, LatentPriorParts

__all__ = ["KEY_PRIORS", "LATENT_PRIORS", "KeyPrior", "LatentPriorParts"]
