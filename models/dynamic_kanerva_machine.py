"""The Dynamic Kanerva Machine (Wu, Wayne, Gregor & Lillicrap, NeurIPS 2018): row weights by least squares."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from kpp_pyro.memory.matrix import least_squares_weights, sequential_write
from kpp_pyro.writes.interface import Encoding
from models.matrix_memory import (
    MATRIX_SETTINGS,
    LinearMemory,
    MatrixMemoryModel,
    SolvedKeyGuide,
    matrix_normal,
    matrix_parts,
)
from models.memory_model import GuideNetworks
from models.pair import Pair
from models.parts import Parts
from models.registry import MODELS, ModelKind


class DynamicKanervaMachineModel(MatrixMemoryModel):
    """A matrix memory whose keys are the row weights.

    M   ~ p(M)             = MN(R_0, u_0^2 I, I)
    y_t ~ p(y)             event (N,)
    z_t ~ p(z | M, y_t)    = N(y_t M, sigma^2 I)
    x_t ~ p(x | z_t)       by `likelihood`
    """


class DynamicKanervaMachineGuide(SolvedKeyGuide):
    """The variational posterior: images are written one by one, with row weights by least squares.

        M   ~ q(M | X)         least squares in R_t-1 for w_t, then Bayes' rule for R_t, U_t
        y_t ~ q(y_t | X, M)    = N(w(c_t, M), sigma_w^2 I), w by least squares
        z_t ~ q(z_t | X)       or q(z_t | X, M, y_t)

    Least squares are regularised by sigma^2, the variance of contents around a read. The solution is the mode of w
    under a prior N(0, I), whatever p(y) is. The original's attractor dynamics are iterative reading, see
    `inference.TrainedMemory.recall`.

    Args:
        linear: the model's linear part.
        networks: encoder and posterior families.
        passes: passes of the write; a later pass solves for row weights in the memory that the previous pass wrote.
    """

    def __init__(self, linear: LinearMemory, networks: GuideNetworks, passes: int = 1) -> None:
        super().__init__(linear, networks)
        self.passes = passes

    def memory_posterior(self, encoding: Encoding) -> Distribution:
        """q(M|X): batch (B, 1), event (N, D)."""
        linear = self.linear
        variance = linear.noise.square()
        prior = linear.memory_loc, linear.memory_scale.square() * linear.identity
        loc, covariance = sequential_write(*prior, encoding.latent_loc, variance, variance, self.passes)
        return matrix_normal(loc, covariance)

    def solve(self, contents: Tensor, memory: Tensor) -> Tensor:
        """Row weights by regularised least squares."""
        return least_squares_weights(memory, contents, self.linear.noise.square())


def _build(parts: Parts) -> Pair:
    program = parts.config.program
    model, networks = matrix_parts(parts, DynamicKanervaMachineModel, program.memory_rows)
    return Pair(model, DynamicKanervaMachineGuide(model.linear, networks, program.write_passes))


MODELS["dynamic_kanerva_machine"] = ModelKind(
    _build, MATRIX_SETTINGS | {"write_passes"}, "memory_rows", like="kanerva_machine"
)
