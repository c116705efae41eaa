"""Families of posteriors that a configuration may name, for keys and for latents.

A family is a file here, which registers it, and a line below, which imports the file.
"""

import kpp_pyro.posteriors.families
from kpp_pyro.posteriors.interface import POSTERIORS, Posterior

__all__ = ["POSTERIORS", "Posterior"]
