"""Likelihoods of images, p(x | z).

A likelihood is a file here, which registers it, and a line below, which imports the file.
"""

import kpp_pyro.likelihoods.bernoulli
from kpp_pyro.likelihoods.interface import LIKELIHOODS

__all__ = ["LIKELIHOODS"]
