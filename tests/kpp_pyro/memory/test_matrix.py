"""Memories that are matrices: exact posteriors, normal equations, the Moore-Penrose conditions."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from inference.runs.config import Config
from kpp_pyro.distributions.matrix_normal import MatrixNormal
from kpp_pyro.errors import InputError
from kpp_pyro.memory.matrix import (
    PSEUDO_INVERSE_STEPS,
    bayesian_write,
    least_squares_weights,
    pseudo_inverse,
    pseudo_inverse_weights,
    pseudo_inverse_write,
    sequential_write,
)

N, C, T = 4, 6, 5
SLOTS, CODE = 32, 100  # sizes of the papers
many_images = pytest.mark.parametrize("images", [1, 2, N, 9])
both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def covariance(*batch: int) -> Tensor:
    factor = normal(*batch, N, N)
    return factor @ factor.mT / N + 0.2 * torch.eye(N, dtype=torch.float64)


def episode(*batch: int, images: int = T) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """R, U, W and Z."""
    return normal(*batch, N, C), covariance(*batch), normal(*batch, images, N), normal(*batch, images, C)


def by_information(
    loc: Tensor, row_covariance: Tensor, weights: Tensor, contents: Tensor, noise: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Bayesian linear regression as precisions: U^-1 + W^T W / σ²."""
    before = torch.linalg.inv(row_covariance)
    after = torch.linalg.inv(before + weights.mT @ weights / noise)
    return after @ (before @ loc + weights.mT @ contents / noise), after


def paper_memory(*batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A mean before writing, of rows of length one."""
    return normal(*batch, SLOTS, CODE, dtype=dtype) / math.sqrt(CODE)


# the Bayesian write


@many_images
@pytest.mark.parametrize("noise", [1e-3, 0.7, 10.0])
def test_the_write_is_bayesian_linear_regression(images: int, noise: float) -> None:
    inputs = episode(2, 3, images=images)
    torch.testing.assert_close(bayesian_write(*inputs, noise), by_information(*inputs, noise), rtol=1e-8, atol=1e-9)


def test_every_episode_may_have_its_own_noise_and_share_a_memory() -> None:
    loc, row_covariance, _, _ = episode()
    weights, contents, noise = normal(3, T, N), normal(3, T, C), torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64)
    together = bayesian_write(loc, row_covariance, weights, contents, noise)
    for b in range(3):
        alone = bayesian_write(loc, row_covariance, weights[b], contents[b], noise[b].item())
        torch.testing.assert_close((together[0][b], together[1][b]), alone)


def test_neither_the_order_nor_the_division_of_contents_matters() -> None:
    loc, row_covariance, weights, contents = episode(2)
    at_once = bayesian_write(loc, row_covariance, weights, contents, 0.3)
    for parts in ([[0], [1], [2], [3], [4]], [[4], [2], [0], [3], [1]], [[3, 1], [0, 2, 4]]):
        memory = loc, row_covariance
        for part in parts:
            memory = bayesian_write(*memory, weights[:, part], contents[:, part], 0.3)
        torch.testing.assert_close(memory, at_once)


def test_the_posterior_accounts_for_the_evidence() -> None:
    """E_q[ln p(Z | M)] − KL(q ‖ p) = ln p(Z), where q is the posterior and nothing else."""
    loc, row_covariance, weights, contents = episode()
    noise = 0.3
    mean, posterior = bayesian_write(loc, row_covariance, weights, contents, noise)
    q, p = (MatrixNormal(m, torch.linalg.cholesky(U)) for m, U in ((mean, posterior), (loc, row_covariance)))
    expected = Normal(weights @ mean, math.sqrt(noise)).log_prob(contents).sum()
    expected = expected - C * (weights @ posterior @ weights.mT).trace() / (2 * noise)
    total = weights @ row_covariance @ weights.mT + noise * torch.eye(T, dtype=torch.float64)
    evidence = MultivariateNormal((weights @ loc).mT, total).log_prob(contents.mT).sum()
    torch.testing.assert_close(expected - kl_divergence(q, p), evidence)


def test_the_kl_of_a_write_is_its_closed_form() -> None:
    loc, row_covariance, weights, contents = episode()
    mean, posterior = bayesian_write(loc, row_covariance, weights, contents, 0.3)
    q, p = (MatrixNormal(m, torch.linalg.cholesky(U)) for m, U in ((mean, posterior), (loc, row_covariance)))
    precision, moved = torch.linalg.inv(row_covariance), mean - loc
    spread = C * ((precision @ posterior).trace() - N - torch.logdet(posterior) + torch.logdet(row_covariance))
    torch.testing.assert_close(kl_divergence(q, p), 0.5 * (spread + (moved.mT @ precision @ moved).trace()))


@pytest.mark.parametrize("images", [1, 3])
def test_gradients_of_the_write_are_finite_differences(images: int) -> None:
    loc, row_covariance, weights, contents = (tensor.requires_grad_() for tensor in episode(images=images))
    noise = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def write(loc: Tensor, factor: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        return bayesian_write(loc, factor @ factor.mT, *others)

    factor = torch.linalg.cholesky(row_covariance.detach()).requires_grad_()
    assert torch.autograd.gradcheck(write, (loc, factor, weights, contents, noise))


@pytest.mark.parametrize("noise", [1.0, 1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("at_once", [False, True])
def test_the_covariance_stays_positive_definite_in_float32_after_512_writes(noise: float, at_once: bool) -> None:
    loc, row_covariance = paper_memory(2), torch.eye(SLOTS).expand(2, -1, -1)
    weights, contents = normal(2, 512, SLOTS, dtype=torch.float32), normal(2, 512, CODE, dtype=torch.float32)
    memory = loc, row_covariance
    for chosen in [slice(None)] if at_once else [slice(t, t + 1) for t in range(512)]:
        memory = bayesian_write(*memory, weights[:, chosen], contents[:, chosen], noise)
    exact = by_information(*(tensor.double() for tensor in (loc, row_covariance, weights, contents)), noise)
    assert torch.equal(memory[1], memory[1].mT)
    half_log_determinant = torch.linalg.cholesky(memory[1]).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    nats = CODE * (half_log_determinant - torch.logdet(exact[1]) / 2).abs()  # of the memory's KL, for 512 images
    assert nats.max() < (1.0 if noise >= 0.1 else 60.0)  # 36 to 44 at 1e-3, with the matrix product of the machine
    worst = ((found - right).norm() / right.norm() for found, right in zip(memory, exact, strict=True))
    assert max(worst) < 2e-4 / noise  # rounding is as large as Σ_z is badly conditioned


# weights by least squares


@pytest.mark.parametrize("penalty", [1e-6, 0.1, 3.0])
def test_weights_solve_the_normal_equations(penalty: float) -> None:
    memory, contents = normal(2, 3, N, C), normal(2, 3, T, C)
    weights = least_squares_weights(memory, contents, penalty)
    slope = penalty * weights - (contents - weights @ memory) @ memory.mT
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


def test_weights_are_least_squares_of_the_augmented_system() -> None:
    memory, contents = normal(N, C), normal(T, C)
    for penalty in (0.0, 0.2):
        system = torch.cat([memory.mT, math.sqrt(penalty) * torch.eye(N, dtype=torch.float64)])  # (C + N, N)
        target = torch.cat([contents.mT, torch.zeros(N, T, dtype=torch.float64)])
        expected = torch.linalg.lstsq(system, target).solution.mT
        torch.testing.assert_close(least_squares_weights(memory, contents, penalty), expected)
        as_tensor = torch.tensor([penalty, 7.0], dtype=torch.float64)
        torch.testing.assert_close(least_squares_weights(memory, contents, as_tensor)[0], expected)


def test_gradients_of_weights_are_finite_differences() -> None:
    penalty = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    inputs = normal(2, N, C).requires_grad_(), normal(3, 2, T, C).requires_grad_(), penalty
    assert torch.autograd.gradcheck(least_squares_weights, inputs)


def test_a_system_that_is_not_positive_definite_has_no_weights() -> None:
    """Without a penalty, dependent rows; with a negative one, any: NaN, and only where it happens."""
    memory = torch.stack([torch.zeros(2, 3), torch.eye(2, 3), torch.eye(2, 3)]).double()
    penalty = torch.tensor([0.0, -2.0, 0.0], dtype=torch.float64)
    weights = least_squares_weights(memory, torch.ones(T, 3, dtype=torch.float64), penalty)
    assert weights[:2].isnan().all() and torch.equal(weights[2], torch.ones(T, 2, dtype=torch.float64))


# the sequential write


def test_one_image_is_written_as_by_hand() -> None:
    mean, row_covariance = sequential_write(torch.eye(2), torch.eye(2), torch.tensor([[2.0, 0.0]]), 1.0, 1.0)
    # w = z M^T (M M^T + I)^-1 = (1, 0), Δ = (1, 0), Σ_c = (1, 0), Σ_z = 2
    torch.testing.assert_close(mean, torch.tensor([[1.5, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(row_covariance, torch.tensor([[0.5, 0.0], [0.0, 1.0]]))


def test_one_pass_is_a_loop_of_reading_and_writing() -> None:
    loc, row_covariance, _, contents = episode(2)
    for b in range(2):
        mean, U = loc[b], row_covariance[b]
        for z in contents[b]:
            w = torch.linalg.solve(mean @ mean.T + 0.4 * torch.eye(N, dtype=torch.float64), mean @ z)
            gain = U @ w / (w @ U @ w + 0.3)
            mean, U = mean + torch.outer(gain, z - w @ mean), U - torch.outer(gain, U @ w)
        found = sequential_write(loc, row_covariance, contents, 0.3, 0.4)
        torch.testing.assert_close((found[0][b], found[1][b]), (mean, U))


def test_later_passes_write_all_images_once_with_weights_of_the_mean_before() -> None:
    loc, row_covariance, _, contents = episode()
    mean, _ = sequential_write(loc, row_covariance, contents, 0.3, 0.4)
    for passes in (2, 3):
        weights = least_squares_weights(mean, contents, 0.4)
        mean, posterior = by_information(loc, row_covariance, weights, contents, 0.3)
        torch.testing.assert_close(sequential_write(loc, row_covariance, contents, 0.3, 0.4, passes), (mean, posterior))


@pytest.mark.parametrize("images", [8, 32, 64])
def test_passes_descend_and_at_low_noise_so_does_the_error_of_reads(images: int) -> None:
    loc, contents = paper_memory(dtype=torch.float64), normal(4, images, CODE)
    row_covariance, noise, penalty = torch.eye(SLOTS, dtype=torch.float64), 0.01, 0.02
    errors, sums = [], []
    for passes in (1, 2, 3, 5):
        mean, _ = sequential_write(loc, row_covariance, contents, noise, penalty, passes)
        weights = least_squares_weights(mean, contents, penalty)
        errors.append((contents - weights @ mean).square().sum((-2, -1)))
        moved = (mean - loc).square().sum((-2, -1))
        sums.append(errors[-1] + penalty * weights.square().sum((-2, -1)) + noise * moved)
    assert (torch.stack(sums).diff(dim=0) < 0).all()
    assert (torch.stack(errors).mean(1).diff() < 0).all()


def test_gradients_of_the_sequential_write_are_finite_differences() -> None:
    loc, row_covariance, _, contents = episode(images=3)
    inputs = loc.requires_grad_(), torch.linalg.cholesky(row_covariance).requires_grad_(), contents.requires_grad_()

    def write(loc: Tensor, factor: Tensor, contents: Tensor) -> tuple[Tensor, Tensor]:
        return sequential_write(loc, factor @ factor.mT, contents, 0.3, 0.4, passes=2)

    assert torch.autograd.gradcheck(write, inputs)


def test_a_write_of_no_pass_is_refused() -> None:
    with pytest.raises(InputError, match="sequential write: expected at least one pass, found 0"):
        sequential_write(*episode()[:2], normal(T, C), 0.3, 0.4, passes=0)


# the pseudo-inverse


def conditioned(rows: int, columns: int, condition: float) -> Tensor:
    """A random matrix of full rank with this ratio of largest to smallest singular value."""
    U, _, V = torch.linalg.svd(normal(rows, columns), full_matrices=False)
    return U @ torch.diag(torch.logspace(0, -math.log10(condition), min(rows, columns), dtype=torch.float64)) @ V


@pytest.mark.parametrize(("rows", "columns"), [(3, 8), (8, 3), (6, 6), (1, 5), (5, 1)])
@pytest.mark.parametrize(("condition", "steps"), [(2.0, 12), (100.0, 23), (1e4, 36)])
def test_the_iteration_reaches_the_pseudo_inverse(rows: int, columns: int, condition: float, steps: int) -> None:
    matrix = torch.stack([conditioned(rows, columns, condition) * scale for scale in (1e-3, 1.0, 1e3)])
    expected = torch.linalg.pinv(matrix)
    relative = (pseudo_inverse(matrix, steps) - expected).norm(dim=(-2, -1)) / expected.norm(dim=(-2, -1))
    assert relative.max() < 1e-13 * condition


def test_convergence_is_quadratic() -> None:
    matrix = conditioned(4, 7, 5.0)
    wrong = [torch.eye(4, dtype=torch.float64) - matrix @ pseudo_inverse(matrix, steps) for steps in range(1, 12)]
    for before, after in pairwise(wrong):
        torch.testing.assert_close(after, before @ before, rtol=1e-9, atol=1e-12)
    assert wrong[-1].norm() < 1e-12 < 1e-2 < wrong[2].norm()


def test_the_conditions_of_moore_and_penrose_hold_of_any_rank() -> None:
    for matrix in (normal(4, 7), normal(7, 4), normal(5, 2) @ normal(2, 6)):
        inverse = pseudo_inverse(matrix, steps=24)  # what rounding leaves of a zero singular value doubles every step
        left, right = matrix @ inverse, inverse @ matrix
        torch.testing.assert_close(left @ matrix, matrix)
        torch.testing.assert_close(right @ inverse, inverse)
        torch.testing.assert_close(left, left.mT, rtol=0, atol=1e-8)
        torch.testing.assert_close(right, right.mT, rtol=0, atol=1e-8)


@pytest.mark.parametrize("steps", [2, 14])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 4, 3)])
def test_gradients_of_the_pseudo_inverse_are_finite_differences(shape: tuple[int, ...], steps: int) -> None:
    matrix = normal(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda matrix: pseudo_inverse(matrix, steps), (matrix,), rtol=1e-4)


def test_a_pseudo_inverse_of_no_step_is_refused() -> None:
    with pytest.raises(InputError, match="pseudo-inverse: expected at least one step, found 0"):
        pseudo_inverse(normal(2, 3), 0)


def read(memory: Tensor, cues: Tensor) -> Tensor:
    """Read a memory once, with the weights of the pseudo-inverse."""
    return pseudo_inverse_weights(memory, cues) @ memory


def errors_of_reading(images: int, dtype: torch.dtype) -> Tensor:
    """Largest relative error (500,) of what each of 500 episodes wrote and read."""
    prior, contents = paper_memory(dtype=dtype), normal(500, images, CODE, dtype=dtype)
    found = read(pseudo_inverse_write(prior, contents), contents)
    return ((found - contents).norm(dim=-1) / contents.norm(dim=-1)).amax(-1)


@pytest.mark.parametrize(
    ("images", "dtype"),
    [
        (1, torch.float32),
        (SLOTS - 1, torch.float32),
        (SLOTS, torch.float64),
    ],
)
def test_what_was_written_is_read_in_every_episode(images: int, dtype: torch.dtype) -> None:
    assert errors_of_reading(images, dtype).max() < 1e-4


def test_a_full_memory_that_is_rounded_to_float32_holds_all_but_a_few_episodes() -> None:
    """With as many images as slots W is square; where it is badly conditioned, float32 cannot hold M."""
    errors = errors_of_reading(SLOTS, torch.float32)
    assert errors.median() < 1e-5
    assert (errors < 1e-4).double().mean() > 0.97


@both_precisions
def test_reading_a_noisy_cue_projects_it_on_what_was_written(dtype: torch.dtype) -> None:
    prior, contents = paper_memory(dtype=dtype), normal(8, 16, CODE, dtype=dtype)
    cues = contents + normal(8, 16, CODE, dtype=dtype)
    memory = pseudo_inverse_write(prior, contents)
    once = read(memory, cues)
    basis = torch.linalg.qr(contents.mT).Q
    torch.testing.assert_close(once, cues @ basis @ basis.mT, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(read(memory, once), once, rtol=1e-3, atol=1e-3)  # reading again changes nothing
    distance, before = (once - contents).norm(dim=-1), (cues - contents).norm(dim=-1)
    assert (distance < before).all()
    expected = math.sqrt(16 / CODE)  # 16 of 100 dimensions of the noise remain
    assert (distance / before).square().mean().sqrt() == pytest.approx(expected, rel=0.1)


def test_more_images_than_slots_are_written_as_a_least_squares_compromise() -> None:
    prior, contents = paper_memory(dtype=torch.float64), normal(2, 2 * SLOTS, CODE)
    weights = pseudo_inverse_weights(prior, contents)
    memory = pseudo_inverse_write(prior, contents)
    torch.testing.assert_close(memory, torch.linalg.lstsq(weights, contents).solution)
    assert (contents - weights @ memory).norm() > 0.1 * contents.norm()


def test_gradients_of_the_pseudo_inverse_write_are_finite_differences() -> None:
    inputs = normal(3, 5).requires_grad_(), normal(2, 2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: pseudo_inverse_write(*inputs, steps=12), inputs, rtol=1e-4)


# reading again and again, and all of them on a device


@pytest.mark.parametrize("spread", [0.1, 0.01, 0.001])
def test_contents_that_are_still_alike_have_modest_gradients_by_the_steps_that_training_takes(spread: float) -> None:
    """Exact inversion tells them apart at any price, by which training diverges."""
    prior, contents = torch.randn(32, 100) / 32**0.5, torch.randn(1, 100) + spread * torch.randn(32, 100)
    norms = []
    default = Config.preset(model="pseudo_inverse_memory").program.pseudo_inverse_steps
    for steps in (default, PSEUDO_INVERSE_STEPS):
        leaf = contents.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(pseudo_inverse_write(prior, leaf, steps).square().sum(), leaf)
        norms.append(gradient.norm().item())
    assert norms[0] < 1e6
    assert spread > 0.05 or norms[1] > 100 * norms[0]


def test_reads_by_least_squares_take_the_noise_off_a_cue() -> None:
    loc, contents = paper_memory(), normal(16, 16, CODE, dtype=torch.float32)
    memory, _ = sequential_write(loc, torch.eye(SLOTS), contents, 1e-2, 1e-2)
    cues = contents + normal(16, 16, CODE, dtype=torch.float32)
    distances = [(cues - contents).square().sum(-1).mean().item()]
    for _ in range(4):
        cues = least_squares_weights(memory, cues, 1e-2) @ memory
        distances.append((cues - contents).square().sum(-1).mean().item())
    assert distances[1] == pytest.approx(SLOTS, rel=0.05) and distances[0] == pytest.approx(CODE, rel=0.05)
    assert all(after < before for before, after in pairwise(distances))


def test_nothing_waits_for_a_value() -> None:
    """On a device of shapes alone, of which no value can be asked."""
    with torch.device("meta"):
        loc, contents, noise = torch.ones(N, C, requires_grad=True), torch.ones(2, T, C), torch.ones(2)
        memory, row_covariance = sequential_write(loc, torch.eye(N), contents, noise, noise, passes=2)
        solved = pseudo_inverse_write(loc, contents)
        results = memory, row_covariance, solved, pseudo_inverse_weights(solved, contents)
        (gradient,) = torch.autograd.grad([tensor.sum() for tensor in results], loc)
        assert {tensor.device.type for tensor in (*results, gradient)} == {"meta"}
        assert [tuple(tensor.shape) for tensor in results] == [(2, N, C), (2, N, N), (2, N, C), (2, T, N)]
