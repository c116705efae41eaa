"""The key distribution of allocated blocks, against integrals over the cube of the key's normal CDFs."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Independent, Laplace, kl_divergence

from kpp_pyro.distributions.block_key import BlockKey, KnownBlockKey
from kpp_pyro.memory.blocks import Addressing, MemoryLayout, cut_blocks, read

LAYOUT = MemoryLayout(2, 4, 9, 2, 3)  # 2 rows of 3 blocks
BLOCKS = LAYOUT.blocks
CELLS = (5, 60, 40)  # of the cube, see cube_of_cdfs
ADDRESSING = Addressing(LAYOUT, edge=0.1, broad=0.2)
ONE_HOT = torch.eye(BLOCKS, dtype=torch.float64).unsqueeze(1)  # (N, 1, N)
SOFT = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05, 0.0], dtype=torch.float64).unsqueeze(0)  # (1, N)
every_prior_prob = pytest.mark.parametrize("prior_prob", [0.0, 0.01, 0.3, 1.0])


def cube_of_cdfs():
    """Midpoints of cells with whose faces all of q's jumps are aligned: sums over them are exact, (G, 1, 3)."""
    # broad = 1/5; edge/2 of a column = 1/60; edge/2 of a row = 1/40
    axes = [(torch.arange(count, dtype=torch.float64) + 0.5) / count for count in CELLS]
    return torch.special.ndtri(torch.cartesian_prod(*axes)).unsqueeze(1)


def standard_normal(reads=1):
    return dist.Normal(torch.zeros(reads, 3, dtype=torch.float64), 1.0).to_event(2)


def log_ratio(key, q):
    """ln q - ln p on keys (..., 1, 3)."""
    return q.log_prob(key) - standard_normal().log_prob(key)


def soft_probs(*batch, reads=1):
    return torch.randn(*batch, reads, BLOCKS, dtype=torch.float64).mul(2).softmax(-1)


def block_of(key, layout=LAYOUT):
    """Number of the block that a key's location falls into."""
    cdf = torch.special.ndtr(key)
    return (cdf[..., 2] * layout.rows).floor() * layout.columns + (cdf[..., 1] * layout.columns).floor()


@every_prior_prob
@pytest.mark.parametrize("probs", [ONE_HOT[0], ONE_HOT[-1], SOFT], ids=["first", "last", "soft"])
def test_the_density_integrates_to_one(probs, prior_prob):
    ratio = log_ratio(cube_of_cdfs(), BlockKey(probs, ADDRESSING, prior_prob)).exp()
    torch.testing.assert_close(ratio.mean(), torch.tensor(1.0, dtype=torch.float64), atol=1e-12, rtol=0)


@every_prior_prob
def test_the_kl_equals_its_integral(prior_prob):
    for probs in (*ONE_HOT[[0, 4]], SOFT, soft_probs()):
        q = BlockKey(probs, ADDRESSING, prior_prob)
        logs = log_ratio(cube_of_cdfs(), q)
        integral = torch.xlogy(logs.exp(), logs.exp()).mean()
        torch.testing.assert_close(q.kl_to_prior(), integral, atol=1e-12, rtol=0)


@pytest.mark.parametrize("addressing", [ADDRESSING, Addressing(LAYOUT)], ids=["wide", "default"])
def test_the_kl_of_a_known_block_is_minus_the_log_of_its_prior_mass(addressing):
    half = addressing.edge / 2
    across = [(1 - half) / 3, (1 - 2 * half) / 3, (1 - half) / 3]  # no edge at the memory's border
    mass = [(1 - addressing.broad) * width * (1 - half) / 2 for width in across * 2]
    expected = -torch.tensor(mass, dtype=torch.float64).log()
    torch.testing.assert_close(BlockKey(ONE_HOT, addressing).kl_to_prior(), expected)


@pytest.mark.parametrize("prior_prob", [0.0, 0.01])
def test_every_key_that_reads_a_block_exactly_has_the_same_ratio_to_the_prior_and_no_other_key_has_it(prior_prob):
    memory, keys = torch.randn(1, 1, *LAYOUT.shape, dtype=torch.float64), cube_of_cdfs().unsqueeze(0)
    found = read(memory, keys, ADDRESSING).squeeze(2)  # (1, G, C_m, h, w)
    blocks = cut_blocks(memory[:, 0], LAYOUT).unsqueeze(2)  # (1, N, 1, C_m, h, w)
    exact = torch.isclose(found.unsqueeze(1), blocks, atol=1e-12, rtol=0).flatten(3).all(-1)[0]  # (N, G)
    for q, reads_it in zip((BlockKey(one, ADDRESSING, prior_prob) for one in ONE_HOT), exact, strict=True):
        ratio = log_ratio(keys[0], q).exp()
        inside = (1 - prior_prob) / reads_it.double().mean() + prior_prob
        torch.testing.assert_close(ratio, torch.where(reads_it, inside, prior_prob))


@pytest.mark.parametrize("prior_prob", [0.0, 0.2])
def test_the_kl_of_several_reads_agrees_with_monte_carlo(prior_prob):
    q, draws = BlockKey(soft_probs(2, reads=2), Addressing(LAYOUT), prior_prob), 20_000
    key = q.sample((draws,))
    difference = q.log_prob(key) - standard_normal(2).log_prob(key)  # (draws, 2)
    error = difference.std(0) / math.sqrt(draws)
    assert ((difference.mean(0) - q.kl_to_prior()).abs() < 4 * error).all()


def test_the_density_integrates_to_one_under_the_default_addressing_by_monte_carlo():
    q, draws = BlockKey(SOFT, Addressing(LAYOUT), 0.1), 100_000
    ratio = log_ratio(torch.randn(draws, 1, 3, dtype=torch.float64), q).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(draws)


def test_reads_are_independent():
    probs, key = soft_probs(4, reads=2), torch.randn(4, 2, 3, dtype=torch.float64)
    together = BlockKey(probs, ADDRESSING, 0.1)
    first, second = (BlockKey(probs[:, r : r + 1], ADDRESSING, 0.1) for r in range(2))
    torch.testing.assert_close(together.log_prob(key), first.log_prob(key[:, :1]) + second.log_prob(key[:, 1:]))
    torch.testing.assert_close(together.kl_to_prior(), first.kl_to_prior() + second.kl_to_prior())


def test_gradients_of_the_density_and_the_kl_are_those_of_the_integrals():
    logits = torch.randn(1, BLOCKS, dtype=torch.float64, requires_grad=True)
    q, cube = BlockKey(logits.softmax(-1), ADDRESSING, 0.1), cube_of_cdfs()
    logs = log_ratio(cube, q)
    (of_mass,) = torch.autograd.grad(logs.exp().mean(), logits, retain_graph=True)
    torch.testing.assert_close(of_mass, torch.zeros_like(of_mass), atol=1e-14, rtol=0)
    (of_integral,) = torch.autograd.grad((logs.exp() * logs).mean(), logits, retain_graph=True)
    (of_kl,) = torch.autograd.grad(q.kl_to_prior(), logits)
    assert of_kl.abs().min() > 1e-4
    torch.testing.assert_close(of_kl, of_integral)


def test_pytorch_dispatches_the_kl_to_the_closed_form():
    q = BlockKey(soft_probs(2, 3, reads=2), ADDRESSING, 0.1)
    assert torch.equal(kl_divergence(q, dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2)), q.kl_to_prior())
    assert torch.equal(kl_divergence(q, standard_normal(2).expand([2, 3])), q.kl_to_prior())


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(0.1, 1.0).expand([1, 3]).to_event(2),
        dist.Normal(0.0, 2.0).expand([1, 3]).to_event(2),
        dist.Normal(torch.tensor([0.0, 0.0, math.nan]), 1.0, validate_args=False).expand([1, 3]).to_event(2),
        dist.Normal(0.0, 1.0).expand([1, 3]).to_event(1),
        Independent(Laplace(torch.zeros(1, 3), 1.0), 2),
    ],
    ids=["shifted", "scaled", "nan", "other event", "laplace"],
)
def test_the_closed_form_refuses_any_other_prior(prior):
    with pytest.raises(NotImplementedError, match="standard normal"):
        kl_divergence(BlockKey(SOFT, ADDRESSING), prior)


@pytest.mark.parametrize("prior_prob", [0.0, 0.3])
def test_samples_fall_into_the_blocks_as_often_as_they_should(prior_prob):
    probs, draws = soft_probs(3, reads=2), 20_000
    blocks = block_of(BlockKey(probs, ADDRESSING, prior_prob).sample((draws,)))  # (draws, 3, 2)
    frequency = torch.stack([(blocks == n).double().mean(0) for n in range(BLOCKS)], -1)
    expected = (1 - prior_prob) * probs + prior_prob / BLOCKS
    error = (expected * (1 - expected) / draws).sqrt()
    assert ((frequency - expected).abs() < 4 * error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prior_prob", [0.0, 0.3])
def test_samples_follow_the_density(dtype, prior_prob):
    draws, density = 50_000, log_ratio(cube_of_cdfs(), BlockKey(SOFT, ADDRESSING, prior_prob)).exp()
    q = BlockKey(SOFT.to(dtype), ADDRESSING, prior_prob)
    key = q.sample((draws,))
    assert key.dtype == dtype and q.log_prob(key).isfinite().all()
    for axis, count in enumerate(CELLS):
        expected = draws * density.reshape(CELLS).movedim(axis, 0).flatten(1).mean(1) / count
        found = torch.histc(torch.special.ndtr(key[:, 0, axis].double()), count, 0, 1)
        possible = expected > 0
        assert not found[~possible].any()
        chi_square = ((found - expected).square() / expected)[possible].sum()
        freedom = possible.sum() - 1
        assert chi_square < freedom + 4 * (2 * freedom).sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_sample_of_a_known_block_reads_exactly_that_block(dtype):
    layout = MemoryLayout(1, 16, 16, 2, 2)
    addressing = Addressing(layout)
    memory = torch.randn(1, 1, *layout.shape, dtype=dtype)
    q = BlockKey(torch.eye(layout.blocks, dtype=dtype)[None, :, None], addressing)  # image n knows block n
    key = q.sample((500,))
    blocks = read(memory, key, addressing).squeeze(-4)
    expected = cut_blocks(memory[:, 0], layout).expand_as(blocks)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(blocks, expected, atol=tolerance, rtol=0)
    assert q.log_prob(key).isfinite().all()


def test_a_key_that_q_cannot_give_has_no_density():
    q = BlockKey(ONE_HOT[0], ADDRESSING)
    outside = torch.tensor([[[0.5, 0.5, 0.25]], [[0.5, 1 / 3, 0.25]], [[0.9, 1 / 6, 0.25]]], dtype=torch.float64)
    inside = torch.tensor([[0.5, 1 / 6, 0.25]], dtype=torch.float64)
    assert (q.log_prob(torch.special.ndtri(outside)) == -math.inf).all()  # another block, the edge, a broad read
    assert q.log_prob(torch.special.ndtri(inside)).isfinite()


def test_a_share_of_the_prior_bounds_importance_weights():
    q = BlockKey(SOFT, ADDRESSING, 0.01)
    key = torch.randn(10_000, 1, 3, dtype=torch.float64) * 3
    assert (log_ratio(key, q) >= math.log(0.01) - 1e-12).all()


@pytest.mark.parametrize("value", [-math.inf, -1e3, 1e3, math.inf])
def test_extreme_keys_are_scored_without_an_error(value):
    q = BlockKey(SOFT, ADDRESSING, 0.01)
    density = q.log_prob(torch.full((1, 3), value, dtype=torch.float64))
    assert not density.isnan() and density < -1e5


def test_the_mode_is_the_middle_of_the_most_probable_cell():
    mode = torch.special.ndtr(BlockKey(torch.cat([ONE_HOT, SOFT[None]]), ADDRESSING).mode).squeeze(1)
    across, down = [0.475 / 3, 1.5 / 3, 2.525 / 3], [0.475 / 2, 1.525 / 2]  # half an edge away from the middle
    expected = [[0.4, across[n % 3], down[n // 3]] for n in [*range(BLOCKS), 0]]  # 0.4 = half of what is not broad
    torch.testing.assert_close(mode, torch.tensor(expected, dtype=torch.float64))


def test_expand_repeats_the_same_distribution():
    q = BlockKey(soft_probs(3, reads=2), ADDRESSING, 0.2)
    wide = q.expand((4, 3))
    key = wide.sample()
    assert wide.batch_shape == (4, 3) and wide.event_shape == (2, 3) and key.shape == (4, 3, 2, 3)
    torch.testing.assert_close(wide.log_prob(key), torch.stack([q.log_prob(k) for k in key]))
    torch.testing.assert_close(wide.kl_to_prior(), q.kl_to_prior().expand(4, 3))
    assert wide.sample((5,)).shape == (5, 4, 3, 2, 3)


def test_has_rsample_tells_whether_a_parameter_chose_the_block():
    logits = torch.zeros(1, BLOCKS, requires_grad=True)
    assert BlockKey(SOFT, ADDRESSING).has_rsample
    learned = BlockKey(logits.softmax(-1), ADDRESSING)
    assert not learned.has_rsample and not learned.expand((3,)).has_rsample
    assert not learned.sample().requires_grad
    assert BlockKey(learned.block_probs.detach(), ADDRESSING).has_rsample


@pytest.mark.parametrize("probs", [[[0.5] * BLOCKS], [[1.5, -0.5, 0, 0, 0, 0]], [[math.nan] * BLOCKS]])
def test_probabilities_that_are_none_are_refused(probs):
    with pytest.raises(ValueError, match="block_probs"):
        BlockKey(torch.tensor(probs), ADDRESSING)


def test_a_key_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="support"):
        BlockKey(SOFT, ADDRESSING).log_prob(torch.tensor([[0.0, math.nan, 0.0]], dtype=torch.float64))


def test_the_mean_read_is_the_integral_of_reads_over_the_density():
    keys, memory = cube_of_cdfs(), torch.randn(2, 1, *LAYOUT.shape, dtype=torch.float64)  # (G, 1, 3)
    q = BlockKey(soft_probs(2, 3, reads=1), ADDRESSING)
    blocks = read(memory, keys.expand(2, -1, -1, -1), ADDRESSING)  # (2, G, 1, C_m, h, w)
    density = log_ratio(keys[:, None, None].expand(-1, 2, 3, -1, -1), q).exp() / len(keys)  # (G, 2, 3)
    expected = torch.einsum("gbt,bgrchw->btrchw", density, blocks)
    torch.testing.assert_close(q.mean_read(memory), expected, atol=1e-10, rtol=1e-10)
    several = BlockKey(soft_probs(2, 3, reads=2), ADDRESSING).mean_read(memory)
    assert several.shape == (2, 3, 2, *LAYOUT.block_shape)


def test_a_known_block_is_a_probability_of_one() -> None:
    blocks = torch.tensor([[0, 5], [3, 3], [1, 2]])  # (3, 2)
    known = KnownBlockKey(blocks, ADDRESSING, torch.float64)
    one_hot = BlockKey(torch.nn.functional.one_hot(blocks, LAYOUT.blocks).double(), ADDRESSING)
    assert known.batch_shape == one_hot.batch_shape and known.event_shape == one_hot.event_shape
    for q in (known, known.expand((4, 3))):
        key = q.sample((50,))
        assert torch.equal(block_of(key), blocks.expand_as(block_of(key)))
        torch.testing.assert_close(known.log_prob(key), one_hot.log_prob(key))
        assert known.log_prob(key).isfinite().all()
    strange = torch.randn(200, 3, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(known.log_prob(strange), one_hot.log_prob(strange))
    torch.testing.assert_close(known.kl_to_prior(), one_hot.kl_to_prior())
    assert torch.equal(known.mode, one_hot.mode) and known.has_rsample and known.expand((3,)) is known
