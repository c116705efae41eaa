"""Families of variational posteriors of keys and latents, registered by the name in a configuration.

To add a family, register it in a file of this folder and import the file below.
"""

import kpp_pyro.posteriors.families
from kpp_pyro.posteriors.interface import POSTERIORS, Posterior

__all__ = ["POSTERIORS", "Posterior"]
