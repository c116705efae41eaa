"""Corruptions: their moments, the pixels they reach, and the pixels they leave unchanged."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from kpp_pyro.corruptions import CORRUPTIONS, corrupt
from kpp_pyro.errors import InputError

STRENGTHS = {"salt_and_pepper": 0.3, "speckle": 0.5, "poisson": 0.2, "gaussian": 0.3, "mask": 0.25}  # with a strength
every_corruption = pytest.mark.parametrize(("corruption", "strength"), STRENGTHS.items(), ids=STRENGTHS.keys())
SIGMAS = 4.5  # of a mean over n independent pixels, by which it may be off


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def grey(value, pixels=200_000):
    return torch.full((pixels // 400, 1, 20, 20), value, dtype=torch.float64)


def some_images(*batch, dtype=torch.float64):
    return torch.rand(*batch, 1, 12, 16, dtype=dtype, generator=seeded(7))


def assert_share(found, probability):
    """Of True in a tensor of independent draws."""
    tolerance = SIGMAS * math.sqrt(probability * (1 - probability) / found.numel())
    assert abs(found.double().mean().item() - probability) < tolerance


def assert_moments(values, mean, variance, kurtosis):
    """Of independent draws; the kurtosis is that of their distribution."""
    assert abs(values.mean().item() - mean) < SIGMAS * math.sqrt(variance / values.numel())
    error = variance * math.sqrt((kurtosis - 1) / values.numel())
    assert abs(values.var().item() - variance) < SIGMAS * error


@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_half_of_the_chosen_pixels_of_a_binary_image_flip(strength):
    clean = torch.rand(300, 1, 20, 20, generator=seeded(3)).lt(0.4).float()
    flipped = corrupt(clean, "salt_and_pepper", strength, seeded()).images != clean
    assert_share(flipped, strength / 2)
    assert_share(flipped[clean == 0], strength / 2)
    assert_share(flipped[clean == 1], strength / 2)


def test_salt_is_as_frequent_as_pepper_and_the_rest_is_untouched():
    found = corrupt(grey(0.3), "salt_and_pepper", 0.2, seeded()).images
    assert_share(found == 1, 0.1)
    assert_share(found == 0, 0.1)
    assert_share(found == 0.3, 0.8)


def test_pixels_are_corrupted_independently():
    changed = corrupt(grey(0.5), "salt_and_pepper", 0.3, seeded()).images != 0.5
    for dim in (0, -2, -1):
        pairs = changed & changed.roll(1, dim)
        assert_share(pairs.narrow(dim, 0, changed.shape[dim] // 2 * 2).unfold(dim, 1, 2), 0.09)  # no pixel twice


def test_speckle_has_the_moments_of_a_scaled_normal():
    found = corrupt(grey(0.5), "speckle", 0.1, seeded()).images
    assert_moments(found, 0.5, 0.05**2, kurtosis=3)
    for deviations, probability in ((1, 0.158655), (2, 0.022750)):
        assert_share(found > 0.5 + 0.05 * deviations, probability)
        assert_share(found < 0.5 - 0.05 * deviations, probability)


def test_gaussian_noise_has_the_moments_of_a_normal():
    found = corrupt(grey(0.5), "gaussian", 0.1, seeded()).images
    assert_moments(found, 0.5, 0.1**2, kurtosis=3)
    for deviations, probability in ((1, 0.158655), (2, 0.022750)):
        assert_share(found > 0.5 + 0.1 * deviations, probability)
        assert_share(found < 0.5 - 0.1 * deviations, probability)


@pytest.mark.parametrize("black", [True, False])
def test_gaussian_noise_at_the_ends_is_that_of_a_clipped_normal(black):
    found = corrupt(grey(0.0 if black else 1.0), "gaussian", 0.2, seeded()).images
    noise = found if black else 1 - found
    assert_share(noise == 0, 0.5)
    mean, square = 0.2 / math.sqrt(2 * math.pi), 0.2**2 / 2  # of max(0, s n)
    assert_moments(noise, mean, square - mean**2, kurtosis=5)  # at most


def colours(value, pixels=60_000):
    return torch.full((pixels // 400, 3, 20, 20), value)


def test_salt_and_pepper_make_all_channels_of_a_pixel_black_or_white():
    found = corrupt(colours(0.3), "salt_and_pepper", 0.2, seeded()).images
    assert (found == found[:, :1]).all()
    for value, share in ((1.0, 0.1), (0.0, 0.1), (0.3, 0.8)):
        assert_share(found[:, 0] == torch.tensor(value), share)


def test_salt_and_pepper_of_one_channel_are_two_uniform_numbers_a_pixel():
    clean, generator = some_images(5, dtype=torch.float32), seeded(4)
    chosen, salt = (torch.rand(clean.shape, generator=generator) < share for share in (0.3, 0.5))
    found = corrupt(clean, "salt_and_pepper", 0.3, seeded(4)).images
    assert torch.equal(found, torch.where(chosen, salt.float(), clean))


@pytest.mark.parametrize("corruption", ["speckle", "gaussian"])
def test_noise_of_the_channels_is_independent(corruption):
    noise = corrupt(colours(0.5), corruption, 0.1, seeded()).images - 0.5
    first, second = noise[:, 0].flatten(), noise[:, 1].flatten()
    correlation = (first * second).mean() / first.square().mean()
    assert abs(correlation) < SIGMAS / math.sqrt(first.numel())


@pytest.mark.parametrize(("value", "strength"), [(0.25, 0.01), (0.02, 0.004)])
def test_poisson_counts_photons(value, strength):
    found = corrupt(grey(value), "poisson", strength, seeded()).images
    photons = found / strength
    torch.testing.assert_close(photons, photons.round(), atol=1e-9, rtol=0)
    rate = value / strength
    assert_moments(photons, rate, rate, kurtosis=3 + 1 / rate)
    assert_share(photons.round() == round(rate), math.exp(round(rate) * math.log(rate) - rate - math.lgamma(rate + 1)))


@pytest.mark.parametrize("corruption", ["speckle", "poisson"])
def test_black_pixels_are_untouched_and_nothing_leaves_the_unit_interval(corruption):
    clean = some_images(50).round() * some_images(50)
    found = corrupt(clean, corruption, 3.0, seeded()).images
    assert not found[clean == 0].any() and (found != clean)[clean > 0].any()
    assert found.min() == 0 and found.max() == 1


@pytest.mark.parametrize(
    ("size", "strength", "area"),
    [
        ((16, 16), 0.25, (8, 8)),
        ((28, 28), 0.5, (20, 20)),
        ((16, 24), 0.25, (8, 12)),
        ((8, 6), 1.0, (8, 6)),
        ((9, 9), 1e-6, (1, 1)),
    ],
)
def test_the_mask_is_one_rectangle_of_the_asked_area(size, strength, area):
    clean = torch.ones(40, 2, *size)
    found = corrupt(clean, "mask", strength, seeded())
    assert (found.hidden.sum((-2, -1)) == area[0] * area[1]).all()
    assert (found.hidden.any(-1).sum(-1) == area[0]).all() and (found.hidden.any(-2).sum(-1) == area[1]).all()
    assert torch.equal(found.hidden[:, 0], found.hidden[:, 1])  # one place in all channels
    assert torch.equal(found.hidden, found.images != clean)
    assert torch.equal(found.images, clean * ~found.hidden)


def test_the_mask_reaches_every_place_equally_often():
    found = corrupt(torch.ones(4000, 1, 5, 8), "mask", 0.25, seeded()).hidden[:, 0]  # of 2 x 4, in 4 x 5 places
    top, left = found.any(-1).int().argmax(-1), found.any(-2).int().argmax(-1)
    for place in itertools.product(range(4), range(5)):
        assert_share((top == place[0]) & (left == place[1]), 1 / 20)
    assert found[:, [0, 0, -1, -1], [0, -1, 0, -1]].any(0).all()


@every_corruption
def test_each_image_of_a_batch_is_corrupted_differently(corruption, strength):
    found = corrupt(grey(0.5, 4000).expand(2, -1, -1, -1, -1), corruption, strength, seeded()).images.flatten(0, 1)
    places = found.flatten(1)
    same = (places[:, None] == places[None]).all(-1).double().mean()
    assert same < (0.1 if corruption == "mask" else 0.051)  # 20 images are their own; a mask has but 121 places


@every_corruption
def test_the_generator_decides_and_nothing_else_does(corruption, strength):
    clean = some_images(3)
    before = torch.get_rng_state()
    first, again = (corrupt(clean, corruption, strength, seeded(5)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    other = corrupt(clean, corruption, strength, seeded(6))
    assert torch.equal(first.images, again.images) and torch.equal(first.hidden, again.hidden)
    assert not torch.equal(first.images, other.images)
    single = corrupt(clean.float(), corruption, strength, seeded(5))
    assert torch.equal(single.hidden, first.hidden)
    if corruption != "poisson":  # which rejects differently in another precision
        torch.testing.assert_close(single.images.double(), first.images, atol=1e-5, rtol=0)


@every_corruption
def test_without_a_generator_the_global_seed_decides(corruption, strength):
    clean = some_images(3)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(corrupt(clean, corruption, strength).images)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@every_corruption
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shape_and_type_are_kept_and_the_clean_images_too(corruption, strength, batch, dtype):
    clean = some_images(*batch, dtype=dtype)
    before = clean.clone()
    found = corrupt(clean, corruption, strength, seeded())
    assert found.images.shape == found.hidden.shape == clean.shape
    assert found.images.dtype == dtype and found.hidden.dtype == torch.bool
    assert ((found.images >= 0) & (found.images <= 1)).all()
    assert torch.equal(clean, before) and not torch.equal(found.images, clean)
    assert found.hidden.any() == (corruption == "mask")


@every_corruption
@pytest.mark.parametrize("strength_refused", [0.0, -0.1, -math.inf, math.nan, math.inf])
def test_a_strength_that_is_no_positive_number_is_refused(corruption, strength, strength_refused):
    with pytest.raises(
        InputError, match=rf"^strength of {corruption}: expected 1e-06 to .*, found {strength_refused}$"
    ):
        corrupt(some_images(), corruption, strength_refused)


@pytest.mark.parametrize("corruption", ["salt_and_pepper", "mask"])
def test_more_than_all_pixels_are_refused(corruption):
    corrupt(some_images(), corruption, 1.0)
    with pytest.raises(InputError, match=f"strength of {corruption}: expected 1e-06 to 1, found 1.01"):
        corrupt(some_images(), corruption, 1.01)


def test_an_unknown_noise_is_refused_with_those_that_there_are():
    with pytest.raises(InputError, match=r"^corruption: expected one of .*, found 'rain'") as refusal:
        corrupt(some_images(), "rain", 0.1)
    assert all(corruption in str(refusal.value) for corruption in STRENGTHS)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_hides_pixels_if_it_says_so(name):
    found = CORRUPTIONS[name]
    corrupted = corrupt(torch.rand(50, 1, 16, 16), name, found.strengths[-1], torch.Generator().manual_seed(0))
    assert corrupted.hidden.any() == found.hides
