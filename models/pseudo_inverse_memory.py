"""The Generative Pseudo-Inverse Memory (Pham, Le, Ngo, Tran, Ho & Venkatesh, ICLR 2022)."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.distributions.matrix_normal import MatrixNormal
from kpp_pyro.memory.matrix import pseudo_inverse_weights, pseudo_inverse_write
from kpp_pyro.networks.heads import positive
from kpp_pyro.writes.interface import Encoding
from models.matrix_memory import MATRIX_SETTINGS, LinearMemory, MatrixMemoryModel, SolvedKeyGuide, matrix_parts
from models.memory_model import GuideNetworks
from models.pair import Pair
from models.parts import Parts
from models.registry import MODELS, ModelKind

_RAW_MEMORY_SCALE = -3.0  # initial raw value, of a scale u near its lower bound, see `positive`


class PseudoInverseMemoryModel(MatrixMemoryModel):
    """A matrix memory whose keys are the row weights.

    M   ~ p(M)             = MN(R_0, u_0^2 I, I)
    y_t ~ p(y)             event (N,)
    z_t ~ p(z | M, y_t)    = N(y_t M, sigma^2 I)
    x_t ~ p(x | z_t)       by `likelihood`
    """


class PseudoInverseMemoryGuide(SolvedKeyGuide):
    """The variational posterior: write and keys are solutions of linear systems, by pseudo-inverses A^+.

        M   ~ q(M | X)         = MN(W^+ C, u^2 I, I),  W = C R_0^+, with contents C (T, D) and u learned
        y_t ~ q(y_t | X, M)    = N(c_t M^+, sigma_w^2 I)
        z_t ~ q(z_t | X)       or q(z_t | X, M, y_t)

    Args:
        linear: the model's linear part.
        networks: encoder and posterior families.
        steps: steps of the iteration that approximates a pseudo-inverse.
    """

    def __init__(self, linear: LinearMemory, networks: GuideNetworks, steps: int) -> None:
        super().__init__(linear, networks)
        self.steps = steps
        self.raw_memory_scale = nn.Parameter(torch.tensor(_RAW_MEMORY_SCALE))

    def memory_posterior(self, encoding: Encoding) -> Distribution:
        """q(M|X): batch (B, 1), event (N, D)."""
        linear = self.linear
        loc = pseudo_inverse_write(linear.memory_loc, encoding.latent_loc, self.steps)
        scale = positive(self.raw_memory_scale, linear.smallest_scale)
        return MatrixNormal(loc.unsqueeze(1), (scale * linear.identity).expand(*loc.shape[:-2], 1, -1, -1))

    def solve(self, contents: Tensor, memory: Tensor) -> Tensor:
        """Row weights c M^+."""
        return pseudo_inverse_weights(memory, contents, self.steps)


def _build(parts: Parts) -> Pair:
    program = parts.config.program
    model, networks = matrix_parts(parts, PseudoInverseMemoryModel, program.memory_rows)
    return Pair(model, PseudoInverseMemoryGuide(model.linear, networks, program.pseudo_inverse_steps))


MODELS["pseudo_inverse_memory"] = ModelKind(
    _build, MATRIX_SETTINGS | {"pseudo_inverse_steps"}, "memory_rows", like="kanerva_machine"
)
