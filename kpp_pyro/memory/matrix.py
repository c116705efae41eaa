"""Matrix memories: writes, and the row weights of reads.

A memory M of N rows (slots) stores contents z of C numbers as z ≈ w M, with N row weights w. The Kanerva Machine (Wu et
al. 2018a) and the Dynamic Kanerva Machine (Wu et al. 2018b) infer M by Bayes' rule. The Generative Pseudo-Inverse
Memory (Pham et al. 2022) solves for M in the least-squares sense.

All functions are differentiable, broadcast over leading batch dimensions, and do not synchronise with the device: a
matrix that is not positive definite gives NaN instead of an error.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpp_pyro.errors import InputError

PSEUDO_INVERSE_STEPS = 40
"""Steps of `pseudo_inverse` in float64, for a memory of 32 rows. With fewer steps, badly conditioned matrices are not
solved. With more steps, rounding errors of a float32 memory with fewer contents than rows are inverted, too."""


def bayesian_write(
    loc: Tensor, row_covariance: Tensor, weights: Tensor, contents: Tensor, noise_variance: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Posterior of a memory M ~ MatrixNormal(R, U), given contents Z = W M + N(0, σ²) (Wu et al. 2018a).

        Δ = Z − W R        R ← R + K Δ           K = Σ_c^T Σ_z^-1
        Σ_c = W U          U ← U − K Σ_c
        Σ_z = W U W^T + σ² I

    U is computed as V − (V W^T − σ² K) K^T with V = U − K Σ_c, and then made symmetric. The bracket is zero except for
    rounding. It removes the first-order effect of K's error on U, so that U stays positive definite in float32, where V
    alone does not (Joseph's form, in fewer operations). In float32, the error of R is about 1e-3 while
    σ² > 1e-5 T w U w^T.

    Args:
        loc: mean R of the memory, (..., N, C).
        row_covariance: U, (..., N, N).
        weights: row weights W, (..., T, N).
        contents: Z, (..., T, C).
        noise_variance: σ² > 0, a number or (...).

    Returns:
        The new R and U. They do not depend on the order of the contents, nor on their division into several writes.
    """
    variance = _per_matrix(noise_variance)
    residual = contents - weights @ loc  # Δ (..., T, C)
    cross = weights @ row_covariance  # Σ_c (..., T, N)
    total = _add_to_diagonal(cross @ weights.mT, variance)  # Σ_z (..., T, T)
    gain = (cross / total if total.shape[-1] == 1 else _solve_positive(total, cross)).mT  # K (..., N, T)
    remaining = row_covariance - gain @ cross  # V (..., N, N)
    remaining = remaining - (remaining @ weights.mT - variance * gain) @ gain.mT
    return loc + gain @ residual, (remaining + remaining.mT) / 2


def least_squares_weights(memory: Tensor, contents: Tensor, penalty: float | Tensor) -> Tensor:
    """Row weights w that minimise |z − w M|² + penalty |w|² for every z (dynamic addressing, Wu et al. 2018b).

    Args:
        memory: M, (..., N, C).
        contents: Z, (..., T, C).
        penalty: a positive number or (...); it may be 0 if the rows of M are well-conditioned.

    Returns:
        Z M^T (M M^T + penalty I)^-1, (..., T, N).
    """
    gram = _add_to_diagonal(memory @ memory.mT, _per_matrix(penalty))  # (..., N, N)
    return _solve_positive(gram, memory @ contents.mT).mT


def sequential_write(
    loc: Tensor,
    row_covariance: Tensor,
    contents: Tensor,
    noise_variance: float | Tensor,
    penalty: float | Tensor,
    passes: int = 1,
) -> tuple[Tensor, Tensor]:
    """Write contents one after another, each with the row weights that fit the memory so far (Wu et al. 2018b).

    For t = 1 ... T: w_t = least_squares_weights(R, z_t), then R, U = bayesian_write(R, U, w_t, z_t). The result depends
    on the order of the contents. A mean R of zeros stays zero, since its row weights are zero.

    Each later pass computes the row weights of all contents from the mean after the previous pass. It then writes all
    contents at once to the initial memory R, U, so that no content is written twice. This is coordinate descent: the
    sum |Z − W M|² + penalty |W|² + σ² tr (M − R)^T U^-1 (M − R), at the new mean M and its best W, does not increase
    from pass to pass.

    Args:
        loc: mean R of the memory, (..., N, C).
        row_covariance: U, (..., N, N).
        contents: Z, in order, (..., T, C).
        noise_variance: σ² > 0, a number or (...).
        penalty: of the row weights, see `least_squares_weights`.
        passes: number of passes over the contents.

    Returns:
        The new R and U.

    Raises:
        InputError: `passes` below 1.
    """
    if passes < 1:
        raise InputError(f"sequential write: expected at least one pass, found {passes}")
    mean, covariance = loc, row_covariance
    for content in contents.split(1, dim=-2):  # (..., 1, C)
        weights = least_squares_weights(mean, content, penalty)
        mean, covariance = bayesian_write(mean, covariance, weights, content, noise_variance)
    for _ in range(passes - 1):
        weights = least_squares_weights(mean, contents, penalty)
        mean, covariance = bayesian_write(loc, row_covariance, weights, contents, noise_variance)
    return mean, covariance


def pseudo_inverse(matrix: Tensor, steps: int = PSEUDO_INVERSE_STEPS) -> Tensor:
    """Moore-Penrose inverse M^+, by A ← 2A − A M A from A = M^T / (|M|_1 |M|_∞) (Ben-Israel & Cohen 1966).

    Each step squares the relative error, which for a singular value s is (1 − s² / (|M|_1 |M|_∞))^(2^steps). About
    log2(|M|_1 |M|_∞ / s²) + 4 steps reach the precision of float32, and one more that of float64. Singular values far
    below 2^(-steps/2) times the largest one are treated as zero. The rounding error of a zero singular value doubles
    with every step.

    Args:
        matrix: M, (..., rows, columns), not all zeros.
        steps: at least 1.

    Returns:
        M^+, (..., columns, rows).

    Raises:
        InputError: `steps` below 1.
    """
    if steps < 1:
        raise InputError(f"pseudo-inverse: expected at least one step, found {steps}")
    wide = matrix.shape[-2] <= matrix.shape[-1]  # then M A is smaller than A M
    norms = matrix.abs().sum(-2).amax(-1) * matrix.abs().sum(-1).amax(-1)  # |M|_1 |M|_∞ (...)
    inverse = matrix.mT / _per_matrix(norms)
    for _ in range(steps):
        twice = inverse @ (matrix @ inverse) if wide else (inverse @ matrix) @ inverse
        inverse = 2 * inverse - twice
    return inverse


def pseudo_inverse_write(prior_loc: Tensor, contents: Tensor, steps: int = PSEUDO_INVERSE_STEPS) -> Tensor:
    """Write contents in the least-squares sense (Pham et al. 2022): W = Z M_0^+, M = W^+ Z.

    Computed in float64 for inputs of any type. The memory holds up to N contents. Measured: `pseudo_inverse_weights`
    reads them with a relative error below 1e-4 in all random episodes (at least 500 for each T; N = 32, C = 100, normal
    contents), in float64, and in float32 for T < N. With T = N, W is square and may be badly conditioned. Then rounding
    M to float32 loses precision: the median error is 1.3e-6, but it is above 1e-4 in 1.1 % of the episodes, 2e-3 at
    most.

    Args:
        prior_loc: M_0, (..., N, C).
        contents: Z, (..., T, C).
        steps: of each `pseudo_inverse`; with 24 instead of 40, the error is above 1e-4 in 2.2 % of the episodes with
            T = N.

    Returns:
        M, (..., N, C).
    """
    exact = contents.double()
    weights = pseudo_inverse_weights(prior_loc.double(), exact, steps)
    return (pseudo_inverse(weights, steps) @ exact).to(contents.dtype)


def pseudo_inverse_weights(memory: Tensor, contents: Tensor, steps: int = PSEUDO_INVERSE_STEPS) -> Tensor:
    """Row weights Z M^+, for which w M is the projection of z onto the rows of M.

    Computed in float64: after T < N writes M has rank T, and the rounding errors of its zero singular values grow with
    every step.

    Args:
        memory: M, (..., N, C).
        contents: Z, (..., T, C).
        steps: of `pseudo_inverse`.

    Returns:
        Row weights, (..., T, N).
    """
    return (contents.double() @ pseudo_inverse(memory.double(), steps)).to(contents.dtype)


def _per_matrix(value: float | Tensor) -> float | Tensor:
    """A number, or one number per matrix (...), in a shape that multiplies matrices (..., n, m)."""
    return value[..., None, None] if isinstance(value, Tensor) else value


def _add_to_diagonal(matrix: Tensor, value: float | Tensor) -> Tensor:
    """matrix + value I."""
    return matrix + value * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def _solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve matrix X = right for symmetric positive definite matrices (..., n, n); X is NaN for other matrices."""
    factor, failed = torch.linalg.cholesky_ex(matrix)  # without an error check, which would synchronise
    factor = factor.masked_fill((failed > 0)[..., None, None], math.nan)
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)
