from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from inference.errors import DivergenceError
from inference.posterior.arviz_data import rhat_and_ess
from inference.posterior.nuts import NutsResult, convergence, sample_posterior
from kpp_pyro.errors import InputError
from tests.programs import WRITES, random_episodes, small_pair

KEY, LATENT, PIXELS = 3, 2, 4
LATENT_SD, PIXEL_SD = 0.7, 0.4


class LinearModel(PyroModule):
    """y ~ N(0, I), z ~ N(A y + M, s^2), x ~ N(B z, t^2): p(y, z | x, M) is normal."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.A = nn.Parameter(torch.randn(LATENT, KEY, dtype=torch.float64, generator=generator))
        self.B = nn.Parameter(torch.randn(PIXELS, LATENT, dtype=torch.float64, generator=generator))

    def forward(self, episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            memory = pyro.sample("memory", dist.ImproperUniform(dist.constraints.real, (), (LATENT, 1, 1)), obs=memory)
            with pyro.plate("images", episode.shape[1], dim=-1):
                key = pyro.sample("key", dist.Normal(self.A.new_zeros(1, KEY), 1.0).to_event(2))
                loc = key[..., 0, :] @ self.A.mT + memory[..., 0, 0]
                latent = pyro.sample("latent", dist.Normal(loc, LATENT_SD).to_event(1))
                pixels = (latent @ self.B.mT).unflatten(-1, (1, 2, 2))
                pyro.sample("image", dist.Normal(pixels, PIXEL_SD).to_event(3), obs=episode)

    def posterior(self, image, memory):
        """Mean and covariance of (y, z), from the precision of the joint density."""
        A, B, shift = self.A.detach(), self.B.detach(), memory.flatten()
        s, t = LATENT_SD**2, PIXEL_SD**2
        precision = torch.cat(
            [
                torch.cat([torch.eye(KEY) + A.mT @ A / s, -A.mT / s], 1),
                torch.cat([-A / s, torch.eye(LATENT) / s + B.mT @ B / t], 1),
            ]
        )
        pull = torch.cat([-A.mT @ shift / s, shift / s + B.mT @ image.flatten() / t])
        covariance = precision.inverse()
        return covariance @ pull, covariance

    def log_joint(self, image, memory, key, latent):
        """ln p(x, y, z | M) of draws (..., 1, 3) and (..., 2), by hand."""
        terms = [
            (key.flatten(-2), 1.0),
            (latent - key.flatten(-2) @ self.A.mT - memory.flatten(), LATENT_SD),
            (image.flatten() - latent @ self.B.mT, PIXEL_SD),
        ]
        return sum(-0.5 * (e / sd).square().sum(-1) - e.shape[-1] * math.log(sd * math.tau**0.5) for e, sd in terms)


def wide_guide(episode, memory=None):
    zero = torch.zeros((), dtype=torch.float64)
    with pyro.plate("episodes", episode.shape[0], dim=-2), pyro.plate("images", episode.shape[1], dim=-1):
        pyro.sample("key", dist.Normal(zero.expand(1, KEY), 2.0).to_event(2))
        pyro.sample("latent", dist.Normal(zero.expand(LATENT), 2.0).to_event(1))


IMAGE = torch.tensor([[[0.5, -1.0], [1.5, 0.2]]], dtype=torch.float64)
MEMORY = torch.tensor([0.8, -0.6], dtype=torch.float64).view(1, 1, LATENT, 1, 1)


def sample_linear(model=None, **changes):
    options = {"chains": 2, "draws": 4, "warmup": 4, "progress": False, **changes}
    return sample_posterior(model or LinearModel(), wide_guide, IMAGE, MEMORY, **options)


@pytest.fixture(scope="module")
def result() -> NutsResult:
    with pyro.validation_enabled(False):  # as in a run: the checks take time, and other tests sample with them
        return sample_linear(chains=4, draws=60, warmup=50, seed=1)


def assert_mean(values, expected):
    """The mean over draws (chains, draws, n) is as expected, by the Monte-Carlo error of its own effective size."""
    error = values.std((0, 1)) / torch.from_numpy(rhat_and_ess(values.numpy())[1]).sqrt()
    assert ((values.mean((0, 1)) - expected).abs() < 4 * error).all()
    assert (error < 0.2 * values.std((0, 1))).all()


def test_a_normal_posterior_is_recovered(result):
    mean, covariance = LinearModel().posterior(IMAGE, MEMORY)
    assert result.draws["key"].shape == (4, 60, 1, KEY)
    assert result.draws["latent"].shape == (4, 60, LATENT)
    draws = torch.cat([result.draws["key"].flatten(2), result.draws["latent"]], -1)  # (chains, draws, 5)
    assert_mean(draws, mean)
    products = (draws - mean).unsqueeze(-1) * (draws - mean).unsqueeze(-2)
    assert_mean(products.flatten(2), covariance.flatten())


def test_chains_of_a_normal_posterior_converge(result):
    found = convergence(result)
    assert set(found) == {"key", "latent"}
    assert all(site.r_hat < 1.05 and site.bulk_ess > 100 for site in found.values())
    assert result.divergences.tolist() == [0] * 4
    assert ((result.acceptance > 0.6) & (result.acceptance < 1)).all()
    assert (result.step_size > 0).all()


def test_the_log_joint_is_that_of_the_draws(result):
    expected = LinearModel().log_joint(IMAGE, MEMORY, result.draws["key"], result.draws["latent"])
    torch.testing.assert_close(result.log_joint, expected.detach(), rtol=1e-12, atol=1e-10)


def test_convergence_is_that_of_the_worst_scalar():
    draws = torch.randn(4, 100, 2, dtype=torch.float64)
    draws[0, :, 1] += 3  # one chain elsewhere
    result = NutsResult({"key": draws}, torch.zeros(4, 100), *torch.zeros(3, 4))
    r_hat, ess = rhat_and_ess(draws.numpy())
    assert r_hat.shape == ess.shape == (2,)
    assert r_hat[0] < 1.02 < 1.3 < r_hat[1]
    assert ess[0] > 300 > 30 > ess[1]
    assert (convergence(result)["key"].r_hat, convergence(result)["key"].bulk_ess) == (r_hat[1], ess[1])


@pytest.mark.parametrize("places", [np.ones(4), np.arange(4.0)], ids=["one place", "a place each"])
def test_where_no_chain_moves_r_hat_and_effective_sample_size_are_not_numbers(places):
    draws = np.random.default_rng(0).normal(size=(4, 100, 3))
    draws[..., 1] = places[:, None]
    draws[0, :, 2] = 7.0  # one of four stands still: the others tell
    r_hat, ess = rhat_and_ess(draws)
    assert np.isnan(r_hat).tolist() == np.isnan(ess).tolist() == [False, True, False]
    assert r_hat[0] < 1.05 < r_hat[2] and ess[0] > 200 > ess[2]
    result = NutsResult({"key": torch.from_numpy(draws)}, torch.zeros(4, 100), *torch.zeros(3, 4))
    assert math.isnan(convergence(result)["key"].r_hat) and math.isnan(convergence(result)["key"].bulk_ess)


@pytest.mark.parametrize("shape", [(1, 100), (4, 3)])
def test_of_a_single_chain_or_of_very_short_ones_r_hat_and_effective_sample_size_are_not_numbers(shape):
    for found in rhat_and_ess(np.random.default_rng(0).normal(size=(*shape, 2))):
        assert found.shape == (2,) and np.isnan(found).all()


def test_a_seed_says_what_is_drawn_and_nothing_outside_changes():
    model = LinearModel()
    parameters = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    first, again, other = (sample_linear(model, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    for name in first.draws:
        assert torch.equal(first.draws[name], again.draws[name])
        assert not torch.equal(first.draws[name], other.draws[name])
        assert not torch.equal(first.draws[name][0], first.draws[name][1])  # nor is one chain another
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), parameters, strict=True))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_it_runs_where_gradients_are_off():
    with torch.no_grad():
        off = sample_linear()
    assert torch.equal(off.draws["latent"], sample_linear().draws["latent"])


def test_progress_goes_over_all_chains(capsys):
    sample_linear(chains=2, draws=3, warmup=2, progress=True)
    assert "NUTS chain 2/2, sample: 100%" in (shown := capsys.readouterr()).err
    assert "10/10" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_chains_start_where_the_guide_says(side):
    def two_modes(episode, memory=None):
        with pyro.plate("episodes", 1, dim=-2), pyro.plate("images", 1, dim=-1):
            latent = pyro.sample("latent", dist.Normal(IMAGE.new_zeros(1), 1.0).to_event(1))
            pyro.sample("image", dist.Normal(latent.abs()[..., None, None], 0.02).to_event(3), obs=episode)

    def guide(episode, memory=None):
        with pyro.plate("episodes", 1, dim=-2), pyro.plate("images", 1, dim=-1):
            pyro.sample("latent", dist.Normal(IMAGE.new_full((1,), side), 0.1).to_event(1))

    result = sample_posterior(
        two_modes, guide, IMAGE.new_ones(1, 1, 1), MEMORY, chains=3, draws=5, warmup=5, progress=False
    )
    torch.testing.assert_close(result.draws["latent"], torch.full((3, 5, 1), side).double(), rtol=0, atol=0.1)


@pytest.mark.parametrize("write", WRITES)
def test_a_memory_models_image_is_sampled(write, monkeypatch):
    monkeypatch.setattr("inference.posterior.nuts.DRAWS_AT_ONCE", 3)
    program, episode = small_pair(write), random_episodes(1)
    model, guide = program.model, program.guide
    memory = guide.write(guide.encode(episode))  # still part of a graph
    result = sample_posterior(
        model, guide, episode[0, 2], memory, chains=2, draws=5, warmup=5, max_tree_depth=4, progress=False
    )
    key, latent = result.draws["key"], result.draws["latent"]
    assert key.shape == (2, 5, 1, 3)
    assert latent.shape == (2, 5, guide.write.latent_size)
    assert key.isfinite().all()
    assert len(key.flatten(1).unique(dim=0)) == 2
    prior = model.latent_prior(memory, key.flatten(0, 1)[None])  # the draws as if images of one episode, (1, 10)
    logits = model.decoder(latent.flatten(0, 1))
    expected = (
        (episode[0, 2] * logits - torch.nn.functional.softplus(logits)).sum((-3, -2, -1))
        + torch.distributions.Normal(prior.mean[0], prior.stddev[0]).log_prob(latent.flatten(0, 1)).sum(-1)
        + torch.distributions.Normal(0.0, 1.0).log_prob(key.flatten(0, 1)).sum((-2, -1))
    )
    torch.testing.assert_close(result.log_joint.flatten(), expected.detach(), rtol=1e-12, atol=1e-9)
    assert all(parameter.grad is None for parameter in (*model.parameters(), *guide.parameters()))


def test_a_start_without_a_finite_density_is_reported():
    def nowhere(episode, memory=None):
        with pyro.plate("episodes", 1, dim=-2), pyro.plate("images", 1, dim=-1):
            pyro.sample("key", dist.Delta(torch.full((1, KEY), torch.inf, dtype=torch.float64)).to_event(2))
            pyro.sample("latent", dist.Normal(torch.zeros(LATENT, dtype=torch.float64), 1.0).to_event(1))

    with pyro.validation_enabled(False), pytest.raises(DivergenceError, match="not finite where a chain starts"):
        sample_posterior(LinearModel(), nowhere, IMAGE, MEMORY, progress=False)


@pytest.mark.parametrize(
    ("image", "memory", "message"),
    [
        (IMAGE[None], MEMORY, r"image: expected one image \(C, H, W\), found shape \(1, 1, 2, 2\)"),
        (IMAGE, MEMORY[0], r"memory: expected a batch of one, .* found shape \(1, 2, 1, 1\)"),
        (IMAGE, MEMORY.expand(2, -1, -1, -1, -1), r"memory: expected a batch of one, .* found shape \(2, 1, 2, 1, 1\)"),
    ],
)
def test_wrong_shapes_are_refused(image, memory, message):
    with pytest.raises(InputError, match=message):
        sample_posterior(LinearModel(), wide_guide, image, memory, progress=False)


def test_an_image_of_another_size_is_refused():
    program, episode = small_pair("feed_forward"), random_episodes(1)
    memory = program.guide.write(program.guide.encode(episode))
    with pytest.raises(InputError, match=r"episode: expected images \(1, 16, 16\), found \(1, 16, 1\)"):
        sample_posterior(program.model, program.guide, episode[0, 0, :, :, :1], memory, progress=False)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ({"chains": 0}, "chains: expected at least 1, found 0"),
        ({"draws": 0}, "draws: expected at least 1, found 0"),
        ({"warmup": -1}, "warmup: expected at least 1, found -1"),
        ({"max_tree_depth": 0}, "max_tree_depth: expected at least 1, found 0"),
        ({"target_acceptance": 1.0}, "target_acceptance: expected between 0 and 1, found 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(number, message):
    with pytest.raises(InputError, match=message):
        sample_linear(**number)


def test_convergence_of_one_chain_is_refused():
    with pytest.raises(InputError, match="expected at least 2 chains of 4 draws, found 1 of 4"):
        convergence(sample_linear(chains=1))
