from __future__ import annotations

import errno
import math

import arviz as az
import numpy as np
import pytest
import torch

from inference.errors import DivergenceError
from inference.importance.estimator import WeightedDraws, defensive_proposal, importance_score, weighted_draws
from inference.posterior.arviz_data import load, posterior_data, resample, save
from kpp_pyro.errors import InputError, OutputError
from tests.programs import IMAGE_SHAPE, random_episodes, small_pair

K, B, T, R, D = 400, 2, 3, 2, 5
N = B * T
GROUPS = ("posterior", "sample_stats", "constant_data", "observed_data")


def random_draws(spread=1.0) -> WeightedDraws:
    generator = torch.Generator().manual_seed(7)

    def normal(*event):
        return torch.randn(K, B, T, *event, dtype=torch.float64, generator=generator)

    values = {"key": normal(R, 3), "latent": normal(D).float()}
    return WeightedDraws(values, normal() * spread - 90, normal() - 10)


def episode() -> torch.Tensor:
    return random_episodes(B, T)


def groups_of(data):
    return {name: data[name] for name in GROUPS if name in data}


def variables_of(data):
    """Every variable and coordinate of every group."""
    for group in groups_of(data).values():
        yield from group.variables.items()


def assert_same(data, other):
    """Names, dimensions, values, types and attributes are the same, to the bit."""
    assert groups_of(data).keys() == groups_of(other).keys()
    assert dict(data.attrs) == dict(other.attrs)
    for (name, ours), (other_name, theirs) in zip(variables_of(data), variables_of(other), strict=True):
        assert (name, ours.dims, ours.dtype, ours.attrs) == (other_name, theirs.dims, theirs.dtype, theirs.attrs)
        np.testing.assert_array_equal(ours.to_numpy(), theirs.to_numpy())


def test_every_axis_has_a_name():
    data = posterior_data(random_draws(), episode())
    posterior = data["posterior"]
    assert dict(posterior["key"].sizes) == {"chain": 4, "draw": 100, "image": N, "read": R, "coordinate": 3}
    assert dict(posterior["latent"].sizes) == {"chain": 4, "draw": 100, "image": N, "latent_dim_0": D}
    assert posterior["coordinate"].to_numpy().tolist() == ["scale", "x", "y"]
    assert posterior["episode"].to_numpy().tolist() == [0, 0, 0, 1, 1, 1]
    assert posterior["position"].to_numpy().tolist() == [0, 1, 2, 0, 1, 2]
    assert all(stat.dims == ("chain", "draw", "image") for stat in data["sample_stats"].data_vars.values())
    for group in ("constant_data", "observed_data"):
        assert all(each.dims == ("image",) for each in data[group].data_vars.values())


def test_every_draw_is_the_one_that_it_says():
    draws = random_draws()
    data = posterior_data(draws, episode())
    stats = data["sample_stats"]
    particle = torch.from_numpy(stats["particle"].to_numpy())
    for image in range(N):
        of_image = particle[..., image], image // T, image % T
        for name, values in draws.values.items():
            np.testing.assert_array_equal(data["posterior"][name][:, :, image], values[of_image])
        np.testing.assert_array_equal(stats["log_joint"][:, :, image], draws.log_joint[of_image])
        np.testing.assert_array_equal(stats["log_proposal"][:, :, image], draws.log_proposal[of_image])
    np.testing.assert_array_equal(stats["log_weight"], stats["log_joint"] - stats["log_proposal"])
    assert stats["log_weight"].attrs["units"] == "nats"
    assert stats["log_joint"].dtype == np.float64
    assert data["posterior"]["latent"].dtype == np.float32


def test_resampled_draws_have_the_weighted_mean():
    draws = random_draws()
    latent = draws.values["latent"].double()
    draws = WeightedDraws(draws.values, draws.log_proposal + latent[..., 0], draws.log_proposal)
    weights = draws.log_weights.softmax(0)[..., None]
    mean = (weights * latent).sum(0).flatten(0, 1)  # (N, D), near (1, 0, 0, ...): w = exp(z_0), z ~ N(0, I)
    error = ((weights * latent.square()).sum(0).flatten(0, 1) / 10000).sqrt()
    found = posterior_data(draws, episode(), draws=2500)["posterior"]["latent"].mean(("chain", "draw"))
    assert (mean[:, 0] > 0.7).all()
    assert ((torch.from_numpy(found.to_numpy()) - mean).abs() < 4 * error).all()


@pytest.mark.parametrize("number", [1, 7, 400, 5000])
def test_every_particle_comes_as_often_as_its_weight_says(number):
    log_weights = random_draws(spread=3.0).log_weights.flatten(1)
    chosen = resample(log_weights, number, seed=3)
    assert chosen.shape == (number, N)
    expected = number * log_weights.softmax(0)
    counts = torch.stack([column.bincount(minlength=K) for column in chosen.T], 1)
    assert ((counts == expected.floor()) | (counts == expected.ceil())).all()


def test_resampling_is_unbiased():
    log_weights = torch.tensor([0.15, 0.6, 0.05, 0.2], dtype=torch.float64).log()
    seeds = 2000  # each a column, with a start of its own
    counts = resample(log_weights[:, None].expand(4, seeds), 3, seed=0).flatten().bincount() / seeds
    # a count is one of two neighbours, so that its standard deviation is 1/2 at most
    np.testing.assert_allclose(counts, 3 * log_weights.exp(), atol=4 * 0.5 / math.sqrt(seeds))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("rest", [1, 10, 11, 49])  # the cumulative sums of these equal weights end at or beside one
def test_a_particle_without_weight_never_comes(rest, uniform, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.full(size, uniform, dtype=torch.float64))
    log_weights = torch.full((rest + 2, 1), -math.inf)
    log_weights[1:-1] = 0.0
    assert set(resample(log_weights, 4000, seed=0).flatten().tolist()) == set(range(1, rest + 1))


def test_chains_hold_draws_in_random_order():
    chosen = resample(torch.zeros(K, 1), K, seed=0).flatten()
    assert chosen.sort().values.equal(torch.arange(K))
    assert np.corrcoef(chosen, np.arange(K))[0, 1] == pytest.approx(0, abs=4 / math.sqrt(K))


@pytest.mark.parametrize("only", [0, 5, K - 1])
@pytest.mark.parametrize("others", [-1e4, -math.inf])
def test_a_draw_of_all_the_weight_is_the_only_one_left(only, others):
    draws = random_draws()
    draws.log_joint[:, 1, 2] = others
    draws.log_joint[only, 1, 2] = 0.0
    data = posterior_data(draws, episode())
    key = data["posterior"]["key"].to_numpy()[:, :, -1]
    np.testing.assert_array_equal(key, np.broadcast_to(draws.values["key"][only, 1, 2], key.shape))
    assert (data["sample_stats"]["particle"][:, :, -1] == only).all()
    assert data["constant_data"]["effective_sample_size"][-1] == pytest.approx(1)


def test_the_scores_are_those_of_importance_sampling():
    program, images = small_pair(), random_episodes(B, T)
    proposal = defensive_proposal(program.model, program.guide, images)
    torch.manual_seed(5)
    score = importance_score(program.model, proposal, images, particles=100)
    torch.manual_seed(5)
    draws = weighted_draws(program.model, proposal, images, particles=100)
    found = posterior_data(draws, images)["constant_data"]
    for name in ("log_likelihood", "monte_carlo_error", "effective_sample_size", "pareto_k"):
        np.testing.assert_allclose(found[name], getattr(score, name).flatten(), rtol=1e-9)


def test_images_are_told_by_summaries_and_never_by_pixels():
    images = episode()
    data = posterior_data(random_draws(), images)
    observed = data["observed_data"]
    inked = [(image == 1).sum().item() / image.numel() for image in images.flatten(0, 1)]
    np.testing.assert_allclose(observed["ink"], inked, rtol=1e-12)
    assert set(groups_of(data)["observed_data"].data_vars) == {"ink"}
    for _, variable in variables_of(data):
        assert not {math.prod(IMAGE_SHAPE), *IMAGE_SHAPE[1:]} & set(variable.shape)


def test_the_first_images_can_be_chosen():
    everything, some = (posterior_data(random_draws(), episode(), images=images, chains=2) for images in (None, 4))
    for group in GROUPS:
        assert some[group].sizes["image"] == 4
    assert some["constant_data"]["position"].to_numpy().tolist() == [0, 1, 2, 0]
    for name in ("log_likelihood", "effective_sample_size"):
        np.testing.assert_array_equal(some["constant_data"][name], everything["constant_data"][name][:4])
    np.testing.assert_array_equal(some["observed_data"]["ink"], everything["observed_data"]["ink"][:4])


def test_a_seed_says_what_is_drawn_and_nothing_outside_changes():
    draws, images = random_draws(), episode()
    state = torch.get_rng_state()
    first, again, other = (posterior_data(draws, images, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(first, again)
    assert not np.array_equal(first["posterior"]["key"], other["posterior"]["key"])


def test_half_precision_is_stored_as_single():
    draws = random_draws()
    draws.values["key"], draws.values["latent"] = draws.values["key"].bfloat16(), draws.values["latent"].half()
    posterior = posterior_data(draws, episode())["posterior"]
    assert posterior["key"].dtype == posterior["latent"].dtype == np.float32


def test_arviz_takes_it():
    data = posterior_data(random_draws(), episode())
    latent = data["posterior"]["latent"]
    summary = az.summary(data, var_names=["latent"])
    assert len(summary) == latent.size / (latent.sizes["chain"] * latent.sizes["draw"])
    assert az.rhat(data)["key"].dims == data["posterior"]["key"].dims[2:]


def test_what_is_saved_is_loaded_to_the_bit(tmp_path):
    data, path = posterior_data(random_draws(), episode()), tmp_path / "posterior.nc"
    save(data, path)
    loaded = load(path)
    path.unlink()
    assert type(loaded) is type(data)
    assert_same(data, loaded)
    save(loaded, path)
    assert_same(data, load(path))
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    data, path = posterior_data(random_draws(), episode()), tmp_path / "posterior.nc"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match=r"posterior\.nc: expected a file that can be written, found No space"):
        save(data, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"not netCDF"])
def test_a_file_that_is_not_netcdf_is_refused(content, tmp_path):
    path = tmp_path / "posterior.nc"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"posterior\.nc: expected a netCDF file"):
        load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 0}, "chains: expected at least 1, found 0"),
        ({"chains": K + 1}, "draws: expected at least 1, found 0"),
        ({"draws": 0}, "draws: expected at least 1, found 0"),
        ({"images": 0}, "images: expected at least 1, found 0"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        posterior_data(random_draws(), episode(), **options)


def test_draws_of_other_images_or_of_whole_episodes_are_refused():
    with pytest.raises(InputError, match=r"expected draws of every image, \(K, 2, 2\), found \(400, 2, 3\)"):
        posterior_data(random_draws(), episode()[:, :2])
    draws = random_draws()
    whole = WeightedDraws(draws.values, draws.log_joint.sum(-1), draws.log_proposal.sum(-1))
    with pytest.raises(InputError, match=r"expected draws of every image, \(K, 2, 3\), found \(400, 2\)"):
        posterior_data(whole, episode())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_mean_nothing_are_refused(bad):
    log_weights = torch.zeros(4, 3)
    log_weights[:, 1] = bad
    with pytest.raises(DivergenceError, match=r"found NaN, infinite or all zero in columns \[1\]"):
        resample(log_weights, 4, seed=0)
