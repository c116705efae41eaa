"""The Kanerva Machine (Wu, Wayne, Graves & Lillicrap, ICLR 2018): a matrix memory, written by Bayes' rule."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution

from kpp_pyro.memory.matrix import bayesian_write
from kpp_pyro.networks.addresses import RowAddresses
from kpp_pyro.posteriors.interface import Posterior
from kpp_pyro.writes.interface import Encoding
from models.matrix_memory import (
    MATRIX_SETTINGS,
    LinearMemory,
    MatrixMemoryGuide,
    MatrixMemoryModel,
    matrix_normal,
    matrix_parts,
)
from models.memory_model import GuideNetworks, KeysFromImages
from models.pair import Pair
from models.parts import Parts
from models.registry import MODELS, ModelKind


class KanervaMachineModel(MatrixMemoryModel):
    """A matrix memory whose rows have learned addresses, see `RowAddresses`.

    M   ~ p(M)             = MN(R_0, u_0^2 I, I)
    y_t ~ p(y)             event (S,)
    z_t ~ p(z | M, y_t)    = N(w(y_t) M, sigma^2 I),  w(y) = A f(y)
    x_t ~ p(x | z_t)       by `likelihood`
    """


class KanervaMachineGuide(KeysFromImages, MatrixMemoryGuide):
    """The variational posterior: keys are a network's output, the memory follows by Bayes' rule.

        M   ~ q(M | X)       = p(M | contents c, row weights w(mode of q(y | x))): Bayesian linear regression
        y_t ~ q(y_t | x_t)
        z_t ~ q(z_t | x_t)   or q(z_t | x_t, M, y_t), as in the original

    The original writes with drawn keys and reads with the same draws. Here the write uses the modes of q(y|x): the mean
    of a Gaussian, the centre of a flow. The posterior of M then does not depend on draws of keys, so that images are
    independent given M, and written images are read as cues are.

    Args:
        linear: the model's linear part.
        networks: encoder and posterior families.
        keys: the family of q(y|x).
    """

    def __init__(self, linear: LinearMemory, networks: GuideNetworks, keys: Posterior) -> None:
        super().__init__(linear, networks)
        self.add_keys(networks, keys, linear.smallest_scale)

    def memory_posterior(self, encoding: Encoding) -> Distribution:
        """q(M|X): batch (B, 1), event (N, D)."""
        linear = self.linear
        loc, covariance = bayesian_write(
            linear.memory_loc,
            linear.memory_scale.square() * linear.identity,
            linear.row_weights(self.key_posterior(encoding).mode),
            encoding.latent_loc,
            linear.noise.square(),
        )
        return matrix_normal(loc, covariance)


def _build(parts: Parts) -> Pair:
    program = parts.config.program
    addresses = RowAddresses(program.key_size, program.memory_rows)
    model, networks = matrix_parts(parts, KanervaMachineModel, program.key_size, addresses)
    return Pair(model, KanervaMachineGuide(model.linear, networks, parts.key_posterior(program.key_size)))


MODELS["kanerva_machine"] = ModelKind(
    _build, MATRIX_SETTINGS | {"key_size", "key_guide"}, "key_size", keys_from_images=True
)
