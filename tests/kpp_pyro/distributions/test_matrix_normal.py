"""The matrix normal, against torch's multivariate normal of its columns, one below the other."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from kpp_pyro.distributions.matrix_normal import MatrixNormal
from kpp_pyro.errors import InputError

N, C = 3, 4
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def parameters(*batch: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    loc = torch.randn(*batch, N, C, dtype=dtype)
    tril = torch.randn(*batch, N, N, dtype=dtype).tril(-1) + torch.diag_embed(0.3 + torch.rand(*batch, N, dtype=dtype))
    return loc, tril


def vec(matrix: Tensor) -> Tensor:
    """Columns (..., N, C) one below the other, (..., C N)."""
    return matrix.mT.flatten(-2)


def vectorised(q: MatrixNormal) -> MultivariateNormal:
    """N(vec(R), I ⊗ U)."""
    rows = (q.row_tril @ q.row_tril.mT).reshape(-1, N, N)
    covariance = torch.stack([torch.kron(torch.eye(C, dtype=U.dtype), U) for U in rows])
    return MultivariateNormal(vec(q.loc), covariance.reshape(*q.batch_shape, N * C, N * C))


@dtypes
@pytest.mark.parametrize("samples", [(), (5,)])
def test_its_density_is_that_of_the_vector_of_its_columns(dtype: torch.dtype, samples: tuple[int, ...]) -> None:
    q = MatrixNormal(*parameters(2, 3, dtype=dtype))
    value = torch.randn(*samples, 2, 3, N, C, dtype=dtype)
    assert q.log_prob(value).dtype == dtype
    tolerance = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(q.log_prob(value), vectorised(q).log_prob(vec(value)), **tolerance)


def test_its_kl_is_that_of_the_vectors() -> None:
    q, p = MatrixNormal(*parameters(2, 3)), MatrixNormal(*parameters(2, 3))
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(vectorised(q), vectorised(p)))
    torch.testing.assert_close(kl_divergence(q, q), torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    one = MatrixNormal(*parameters())
    torch.testing.assert_close(kl_divergence(q, one), kl_divergence(q, one.expand((2, 3))))


def test_its_kl_agrees_with_monte_carlo() -> None:
    q, p, draws = MatrixNormal(*parameters(2)), MatrixNormal(*parameters(2)), 20_000
    value = q.sample((draws,))
    difference = q.log_prob(value) - p.log_prob(value)  # (draws, 2)
    error = difference.std(0) / math.sqrt(draws)
    assert ((difference.mean(0) - kl_divergence(q, p)).abs() < 4 * error).all()


def test_the_kl_of_matrices_of_other_shapes_is_refused() -> None:
    loc, tril = parameters()
    with pytest.raises(InputError, match=r"the same shape, found .*3, 4.* and .*3, 1"):
        kl_divergence(MatrixNormal(loc, tril), MatrixNormal(loc[:, :1], tril))


def test_samples_have_the_moments() -> None:
    q, draws = MatrixNormal(*parameters()), 40_000
    value = vec(q.sample((draws,)))
    exact = vectorised(q)
    error = (value - exact.mean).T @ (value - exact.mean) / draws - exact.covariance_matrix
    deviation = (exact.variance[:, None] * exact.variance + exact.covariance_matrix.square()).div(draws).sqrt()
    assert (error.abs() < 5 * deviation).all()
    assert ((value.mean(0) - exact.mean).abs() < 4 * exact.stddev / math.sqrt(draws)).all()
    torch.testing.assert_close(vec(q.variance), exact.variance)
    torch.testing.assert_close(vec(q.stddev), exact.stddev)
    assert torch.equal(q.mean, q.loc) and torch.equal(q.mode, q.loc)


def test_gradients_of_density_divergence_and_samples_are_finite_differences() -> None:
    inputs = tuple(tensor.requires_grad_() for tensor in parameters(2))
    value, prior = torch.randn(2, N, C, dtype=torch.float64, requires_grad=True), MatrixNormal(*parameters())

    def sample(loc: Tensor, tril: Tensor) -> Tensor:
        torch.manual_seed(3)
        return MatrixNormal(loc, tril.tril()).rsample((2,))

    def densities(loc: Tensor, tril: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        q = MatrixNormal(loc, tril.tril())
        return q.log_prob(value), kl_divergence(q, prior)

    assert torch.autograd.gradcheck(sample, inputs)
    assert torch.autograd.gradcheck(densities, (*inputs, value))


def test_a_sample_without_reparametrisation_carries_no_gradient() -> None:
    q = MatrixNormal(*(tensor.requires_grad_() for tensor in parameters()))
    assert q.has_rsample and q.rsample().requires_grad and not q.sample().requires_grad


def test_it_expands_to_new_plates_and_stays_itself_in_its_own() -> None:
    loc, tril = parameters(4, 1)
    q = MatrixNormal(loc, tril[0, 0])
    assert q.batch_shape == (4, 1) and q.expand((4, 1)) is q
    wide = q.expand((7, 4, 5))
    value = wide.sample((2,))
    assert value.shape == (2, 7, 4, 5, N, C) and wide.event_shape == (N, C) and wide.row_tril.shape[:-2] == (7, 4, 5)
    torch.testing.assert_close(wide.log_prob(value), q.log_prob(value))
    torch.testing.assert_close(wide.variance, q.variance.expand(7, 4, 5, N, C))


def test_it_is_a_site_of_a_program() -> None:
    loc, tril = parameters()
    with pyro.plate("episodes", 6, dim=-2), pyro.poutine.trace() as trace:
        drawn = pyro.sample("memory", MatrixNormal(loc, tril))
    trace.trace.compute_log_prob()
    assert drawn.shape == (6, 1, N, C) and trace.trace.nodes["memory"]["log_prob"].shape == (6, 1)


@pytest.mark.parametrize(("place", "value"), [((1, 1), 0.0), ((0, 1), 1.0), ((2, 0), math.nan)])
def test_a_factor_that_is_none_is_refused(place: tuple[int, int], value: float) -> None:
    loc, tril = parameters()
    tril[place] = value
    with pytest.raises(ValueError, match="row_tril"):
        MatrixNormal(loc, tril)


def test_shapes_and_values_that_do_not_fit_are_refused() -> None:
    loc, tril = parameters()
    with pytest.raises(InputError, match=r"row_tril: expected \(..., 3, 3\), found \(2, 2\)"):
        MatrixNormal(loc, tril[:2, :2])
    with pytest.raises(ValueError, match="right-most"):
        MatrixNormal(loc, tril).log_prob(torch.zeros(C, N))
    with pytest.raises(ValueError, match="support"):
        MatrixNormal(loc, tril).log_prob(loc * math.nan)


def test_nothing_waits_for_a_value() -> None:
    """On a device of shapes alone, of which no value can be asked."""
    with torch.device("meta"):
        q = MatrixNormal(torch.zeros(2, N, C), torch.ones(2, N, N), validate_args=False)
        value = q.rsample((5,))
        results = q.log_prob(value), kl_divergence(q, q)
        assert {tensor.device.type for tensor in (value, *results)} == {"meta"}
