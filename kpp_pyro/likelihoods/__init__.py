"""Likelihoods of images, p(x | z), registered by the name in a configuration.

To add a likelihood, register it in a file of this folder and import the file below.
"""

import kpp_pyro.likelihoods.bernoulli
from kpp_pyro.likelihoods.interface import LIKELIHOODS

__all__ = ["LIKELIHOODS"]
