"""Priors p(y) of keys, and p(z | M, y) of the latents of Kanerva++, registered by the name in a configuration.

To add a prior, register it in a file of this folder and import the file below.
"""

import kpp_pyro.priors.keys
import kpp_pyro.priors.latents
from kpp_pyro.priors.interface import KEY_PRIORS, LATENT_PRIORS, KeyPrior, LatentPriorKind, LatentPriorParts

__all__ = ["KEY_PRIORS", "LATENT_PRIORS", "KeyPrior", "LatentPriorKind", "LatentPriorParts"]
