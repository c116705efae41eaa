"""Priors p(M) of memories, p(y) of keys, and p(z | M, y) of the latents of Kanerva++, by the name in a configuration.

To add a prior, register it in a file of this folder and import the file below.
"""

import kpp_pyro.priors.autoregressive
import kpp_pyro.priors.keys
import kpp_pyro.priors.latents
import kpp_pyro.priors.memories
from kpp_pyro.priors.interface import (
    KEY_PRIORS,
    LATENT_PRIORS,
    MEMORY_PRIORS,
    KeyPrior,
    LatentPriorKind,
    LatentPriorParts,
    MemoryPrior,
    MemoryPriorKind,
    MemoryPriorParts,
)

__all__ = [
    "KEY_PRIORS",
    "LATENT_PRIORS",
    "MEMORY_PRIORS",
    "KeyPrior",
    "LatentPriorKind",
    "LatentPriorParts",
    "MemoryPrior",
    "MemoryPriorKind",
    "MemoryPriorParts",
]
