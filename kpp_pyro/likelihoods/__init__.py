"""Likelihoods of images, p(x | z), registered by the name in a configuration.

To add a likelihood, register it in a file of this folder and import the file below.
"""

import kpp_pyro.likelihoods.bernoulli
import kpp_pyro.likelihoods.discretized_logistic
import kpp_pyro.likelihoods.local_autoregressive
import kpp_pyro.likelihoods.local_bernoulli
from kpp_pyro.likelihoods.interface import LIKELIHOODS, Likelihood, bits_per_dim, kl_sites, with_bits_per_dim

__all__ = ["LIKELIHOODS", "Likelihood", "bits_per_dim", "kl_sites", "with_bits_per_dim"]
