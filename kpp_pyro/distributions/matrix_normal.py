"""The matrix normal distribution with independent columns."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Size, Tensor
from torch.distributions import constraints, register_kl

from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import ExpandsOnce


class MatrixNormal(ExpandsOnce, TorchDistribution):
    """A random matrix of N rows (slots) and C columns (code size): M = R + L E, with independent N(0, 1) entries E.

    The columns are independent, each with the covariance U = L L^T over the rows: vec(M) ~ N(vec(R), I ⊗ U), where vec
    stacks columns. This is the memory of Wu et al. (2018a), "The Kanerva Machine", with V = I.

    Args:
        loc: mean R, (..., N, C).
        row_tril: Cholesky factor L of U, lower triangular with a positive diagonal, (..., N, N).
        validate_args: as in any Pyro distribution.

    Raises:
        InputError: `row_tril` does not have N rows and columns.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 2),
        "row_tril": constraints.lower_cholesky,
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, loc: Tensor, row_tril: Tensor, validate_args: bool | None = None) -> None:
        rows = loc.shape[-2]
        if row_tril.shape[-2:] != (rows, rows):
            raise InputError(f"row_tril: expected (..., {rows}, {rows}), found {tuple(row_tril.shape)}")
        batch_shape = Size(broadcast_shape(loc.shape[:-2], row_tril.shape[:-2]))
        self.loc = loc.expand(*batch_shape, -1, -1)
        self.row_tril = row_tril.expand(*batch_shape, -1, -1)
        super().__init__(batch_shape, loc.shape[-2:], validate_args=validate_args)

    def _expanded(self, batch_shape: Size) -> MatrixNormal:
        loc, row_tril = (parameter.expand(*batch_shape, -1, -1) for parameter in (self.loc, self.row_tril))
        return MatrixNormal(loc, row_tril, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """R, (..., N, C)."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """R, (..., N, C)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Variance of every entry, (..., N, C): the diagonal of U, the same in all columns."""
        return self.row_tril.square().sum(-1, keepdim=True).expand_as(self.loc)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw matrices (sample_shape, ..., N, C)."""
        shape = self._extended_shape(sample_shape)
        return self.loc + self.row_tril @ torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        standard = _solve(self.row_tril, value - self.loc)
        constant = 0.5 * math.log(2 * math.pi) * self.event_shape.numel()
        return -0.5 * standard.square().sum((-2, -1)) - self._log_scale() - constant

    def _log_scale(self) -> Tensor:
        """Half the log-determinant of I ⊗ U, (...)."""
        return self.event_shape[1] * self.row_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _solve(row_tril: Tensor, matrix: Tensor) -> Tensor:
    """L^-1 times a matrix (..., N, n), for a lower triangular L (..., N, N)."""
    return torch.linalg.solve_triangular(row_tril, matrix, upper=False)


@register_kl(MatrixNormal, MatrixNormal)
def _kl_matrix_normal(q: MatrixNormal, p: MatrixNormal) -> Tensor:
    """KL(q || p) in nats, (...)."""
    if q.event_shape != p.event_shape:
        raise InputError(f"KL of matrix normals: expected the same shape, found {q.event_shape} and {p.event_shape}")
    columns = q.event_shape[1]
    trace = columns * _solve(p.row_tril, q.row_tril).square().sum((-2, -1))  # C tr(U_p^-1 U_q)
    distance = _solve(p.row_tril, q.loc - p.loc).square().sum((-2, -1))
    return 0.5 * (trace + distance - q.event_shape.numel()) + p._log_scale() - q._log_scale()
