"""Streams of importance weights, against sums over all of them, ArviZ, and distributions that are known."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from inference.importance.estimator import ImportanceScore, WeightStream, pareto_k_limit
from inference.importance.scoring import summarize
from inference.tracing import ElboTerms

INFINITY = math.inf
CHUNKS = (1, 7, 13, 64, 400, 10_000)
every_chunk = pytest.mark.parametrize("chunk", CHUNKS)


def stream_of(log_weights, chunk=None, tail=False):
    stream = WeightStream(len(log_weights), tail)
    for part in log_weights.split(chunk or len(log_weights)):
        stream.add(part)
    return stream


def normal_log_weights(*shape, sd=1.0):
    """Log-normal weights, which have every moment and no generalized Pareto tail."""
    return sd * torch.randn(*shape, dtype=torch.float64)


def pareto_weights(k, *shape):
    """Exceedances of the generalized Pareto distribution of shape k and scale 1, by the inverse of its CDF."""
    uniform = torch.rand(*shape, dtype=torch.float64)
    return torch.expm1(-k * uniform.log()) / k if k else -uniform.log()


def arvizs_pareto_k(log_weights):
    """k-hat of every column (K, N), by either version of ArviZ."""
    rows = log_weights.mT.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    if hasattr(arviz, "psislw"):
        return torch.tensor([float(arviz.psislw(row.copy())[1]) for row in rows], dtype=torch.float64)
    from arviz_stats.base import array_stats

    return torch.from_numpy(array_stats.psislw(-rows, axis=-1)[1])  # since 1.0 it takes log-likelihoods


def numbers_held(stream):
    """Scalars in all the tensors of a stream."""
    return sum(value.numel() for value in vars(stream).values() if torch.is_tensor(value))


@every_chunk
@pytest.mark.parametrize("shape", [(2, 3), (4,), ()], ids=str)
def test_the_log_mean_is_that_of_all_weights_whatever_the_chunks(chunk, shape):
    log_weights = normal_log_weights(397, *shape, sd=3.0)  # 397 is prime
    stream = stream_of(log_weights, chunk)
    assert stream.held == 397
    expected = log_weights.logsumexp(0) - math.log(397)
    torch.testing.assert_close(stream.log_mean(), expected, rtol=0, atol=1e-12)


def test_weights_far_from_one_neither_overflow_nor_vanish():
    near = normal_log_weights(50, 2)
    far = near + torch.tensor([-4000.0, 4000.0])
    for chunk in (1, 7):
        shifted = stream_of(far, chunk, tail=True)
        plain = stream_of(near, chunk, tail=True)
        torch.testing.assert_close(shifted.log_mean(), plain.log_mean() + torch.tensor([-4000.0, 4000.0]))
        torch.testing.assert_close(shifted.effective_sample_size(), plain.effective_sample_size())
        torch.testing.assert_close(shifted.monte_carlo_error(), plain.monte_carlo_error())
        torch.testing.assert_close(shifted.pareto_k(), plain.pareto_k())


def test_single_precision_is_summed_in_double():
    log_weights = normal_log_weights(1000, 2).float()
    stream = stream_of(log_weights, 3)
    assert stream.log_mean().dtype == torch.float64
    torch.testing.assert_close(stream.log_mean(), stream_of(log_weights.double()).log_mean(), rtol=0, atol=1e-12)


@every_chunk
def test_weights_of_zero_count_as_particles(chunk):
    log_weights = normal_log_weights(101, 2)
    log_weights[::3] = -INFINITY
    log_weights[:40, 1] = -INFINITY  # whole chunks of zeros, from the start
    stream = stream_of(log_weights, chunk, tail=True)
    weights = log_weights.exp()
    torch.testing.assert_close(stream.log_mean(), weights.mean(0).log(), rtol=0, atol=1e-12)
    torch.testing.assert_close(stream.effective_sample_size(), weights.sum(0).square() / weights.square().sum(0))
    assert stream.pareto_k().isfinite().all()


@every_chunk
def test_where_every_weight_is_zero_nothing_is_known(chunk):
    stream = stream_of(torch.full((60, 2), -INFINITY, dtype=torch.float64), chunk)
    assert stream.log_mean().tolist() == [-INFINITY, -INFINITY]
    assert stream.effective_sample_size().tolist() == [0, 0]
    assert stream.monte_carlo_error().tolist() == [INFINITY, INFINITY]


@pytest.mark.parametrize("sd", [0.0, 0.1, 1.0, 5.0, 50.0])
def test_the_effective_size_lies_between_one_and_all_of_them(sd):
    log_weights = normal_log_weights(500, 40, sd=sd)
    size = stream_of(log_weights, 33).effective_sample_size()
    weights = (log_weights - log_weights.max(0).values).exp()
    torch.testing.assert_close(size, weights.sum(0).square() / weights.square().sum(0))
    assert (size > 1 - 1e-9).all()
    assert (size < 500 + 1e-9).all()


@every_chunk
def test_equal_weights_are_all_effective_and_have_neither_error_nor_tail(chunk):
    stream = stream_of(torch.full((300, 2), -7.3, dtype=torch.float64), chunk, tail=True)
    torch.testing.assert_close(stream.effective_sample_size(), torch.full((2,), 300.0, dtype=torch.float64))
    torch.testing.assert_close(stream.log_mean(), torch.full((2,), -7.3, dtype=torch.float64))
    assert (stream.monte_carlo_error() < 1e-6).all()
    assert (stream.pareto_k() == 0).all()


def test_one_weight_among_zeros_is_one_effective_weight():
    log_weights = torch.full((200, 1), -INFINITY, dtype=torch.float64)
    log_weights[17] = -3.0
    stream = stream_of(log_weights, 30, tail=True)
    torch.testing.assert_close(stream.effective_sample_size(), torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(stream.monte_carlo_error(), torch.ones(1, dtype=torch.float64))  # relative
    assert stream.pareto_k().tolist() == [INFINITY]


@pytest.mark.parametrize("sd", [0.1, 0.5, 1.0])
def test_the_error_is_the_spread_of_the_log_mean_over_repetitions(sd):
    repetitions = 2000
    stream = stream_of(normal_log_weights(400, repetitions, sd=sd), 150)
    spread = stream.log_mean().std()
    # the error of a standard deviation of log-normal means is a few percent here
    assert stream.monte_carlo_error().square().mean().sqrt() == pytest.approx(spread.item(), rel=0.06)
    known = math.sqrt(math.expm1(sd**2) / 400)  # relative standard deviation of a log-normal, over sqrt(K)
    assert stream.monte_carlo_error().mean() == pytest.approx(known, rel=0.06)


def test_the_error_is_that_of_a_sample_mean_over_the_mean():
    log_weights = normal_log_weights(57, 3)
    weights = log_weights.exp()
    expected = weights.std(0) / math.sqrt(57) / weights.mean(0)  # with K - 1 degrees of freedom
    torch.testing.assert_close(stream_of(log_weights, 5).monte_carlo_error(), expected)


def test_one_weight_has_no_known_error():
    stream = stream_of(normal_log_weights(1, 2, 3), tail=True)
    assert stream.monte_carlo_error().isnan().all()
    assert stream.pareto_k().isnan().all()
    assert stream.monte_carlo_error().shape == stream.pareto_k().shape == (2, 3)


@pytest.mark.parametrize("particles", [40, 100, 225, 400, 900, 2500])  # where both versions agree on the tail
@pytest.mark.parametrize("sd", [0.3, 1.0, 3.0])
def test_k_hat_is_arvizs(particles, sd):
    log_weights = normal_log_weights(particles, 6, sd=sd) - 5
    found = stream_of(log_weights, 37, tail=True).pareto_k()
    torch.testing.assert_close(found, arvizs_pareto_k(log_weights), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [0.2, 0.7, 1.5])
def test_k_hat_of_heavy_tails_is_arvizs(k):
    log_weights = pareto_weights(k, 900, 6).log()
    found = stream_of(log_weights, 100, tail=True).pareto_k()
    torch.testing.assert_close(found, arvizs_pareto_k(log_weights), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.5, 0.7, 1.0])
def test_k_hat_recovers_the_shape_of_generalized_pareto_weights(k):
    weights = 2 + 3 * pareto_weights(k, 10_000, 60)  # exceedances over any threshold have the same shape
    found = stream_of(weights.log(), 999, tail=True).pareto_k()
    tail = 300
    expected = (tail * k + 5) / (tail + 10)  # ten weights' worth of prior at 0.5
    spread = (1 + k) / math.sqrt(tail)  # asymptotic standard deviation of the maximum-likelihood shape
    assert found.mean() == pytest.approx(expected, abs=5 * spread / math.sqrt(60) + 0.01)
    assert found.std() == pytest.approx(spread, rel=0.5)


@every_chunk
def test_k_hat_does_not_depend_on_chunks_nor_on_their_order(chunk):
    log_weights = normal_log_weights(997, 2, 3, sd=2.0)
    expected = stream_of(log_weights, tail=True).pareto_k()
    assert expected.shape == (2, 3)
    torch.testing.assert_close(stream_of(log_weights, chunk, tail=True).pareto_k(), expected, rtol=0, atol=1e-12)
    shuffled = log_weights[torch.randperm(997)]
    torch.testing.assert_close(stream_of(shuffled, chunk, tail=True).pareto_k(), expected, rtol=0, atol=1e-12)


def test_k_hat_is_per_datum():
    log_weights = torch.stack([normal_log_weights(400), 4 * normal_log_weights(400)], -1)
    both = stream_of(log_weights, 90, tail=True).pareto_k()
    for datum in (0, 1):
        torch.testing.assert_close(stream_of(log_weights[:, datum : datum + 1], tail=True).pareto_k()[0], both[datum])
    assert both[0] < pareto_k_limit(400) < both[1]


@pytest.mark.parametrize(
    ("particles", "limit"), [(1, -INFINITY), (10, 0), (100, 0.5), (1000, 2 / 3), (2154, 0.69999), (10**6, 0.7)]
)
def test_the_limit_of_k_hat_is_that_of_vehtari_et_al(particles, limit):
    assert pareto_k_limit(particles) == pytest.approx(limit, abs=1e-5)


@pytest.mark.parametrize(("particles", "share"), [(100, 0.75), (1000, 0.5), (9999, 0.25)])
def test_the_share_of_images_above_the_limit_depends_on_the_number_of_particles(particles, share):
    k, zero = torch.tensor([0.45, 0.55, 0.68, math.nan]), torch.zeros(4)  # NaN is above any limit
    score = ImportanceScore(zero, zero, zero, k, (ElboTerms(zero, zero, {}),), {1: zero, particles: zero})
    assert summarize(score)["pareto_k_above_limit_share"] == share


def test_without_a_tail_or_with_too_few_weights_k_hat_is_not_known():
    assert stream_of(normal_log_weights(1000, 2)).pareto_k().isnan().all()
    assert stream_of(normal_log_weights(20, 2), tail=True).pareto_k().isnan().all()
    assert stream_of(normal_log_weights(21, 2), tail=True).pareto_k().isfinite().all()


def test_what_is_held_grows_with_the_root_of_the_number_of_weights():
    data, sums = 5, 2 * 5
    for particles in (100, 10_000, 250_000):
        stream = WeightStream(particles, tail=True)
        for part in normal_log_weights(particles, data).split(1000):
            stream.add(part)
            assert numbers_held(stream) <= sums + data * (3 * math.sqrt(particles) + 2)
    assert numbers_held(stream_of(normal_log_weights(10_000, data), 100)) == sums  # no tail was asked for


@pytest.mark.parametrize("value", [-INFINITY, math.nan])
def test_weights_that_say_nothing_are_not_to_be_trusted(value):
    k = stream_of(torch.full((60, 2), value, dtype=torch.float64), 7, tail=True).pareto_k()
    assert not (k <= 0.7).any()


def test_weights_that_are_equal_up_to_rounding_have_no_tail():
    equal = torch.full((400, 50), -12.3, dtype=torch.float64)
    for touched in (1, 3, 400):  # weights that rounding has touched
        log_weights = equal.clone()
        log_weights[:touched] += 4e-15 * torch.randint(-2, 3, (touched, 50))
        k = stream_of(log_weights, 90, tail=True).pareto_k()
        assert (k.abs() <= 0.5).all()


def test_k_hat_of_a_single_datum_without_dimensions():
    log_weights = normal_log_weights(100)
    expected = stream_of(log_weights.unsqueeze(-1), tail=True).pareto_k()[0]
    torch.testing.assert_close(stream_of(log_weights, 7, tail=True).pareto_k(), expected)
