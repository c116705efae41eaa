"""Decoded baselines of docs/draw_memory_bits.py, against closed forms and loops."""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from inference.runs.config import Config
from inference.runs.data import build_episodes
from tests.experiments.running import ROOT, script_of_docs


@pytest.fixture
def pixels():
    return script_of_docs("calibrated_pixels")


@pytest.fixture
def script():
    return script_of_docs("memory_baselines")


def random_levels(*shape, levels=256):
    return torch.randint(levels, shape, dtype=torch.uint8)


def correlated(count=300, shape=(3, 2, 2)):
    """Images whose dimensions vary together, and differently much."""
    size = math.prod(shape)
    mixed = torch.randn(count, size) @ (torch.randn(size, size) * torch.linspace(30, 1, size))
    return (128 + mixed).round().clamp(0, 255).byte().view(count, *shape)


def test_a_bernoulli_is_the_logistic_regression_of_every_pixel(pixels):
    reconstructions = torch.rand(400, 3, dtype=torch.float64)
    chances = torch.stack([4 * reconstructions[:, 0] - 2, 0 * reconstructions[:, 1] - 5, 9 * reconstructions[:, 2] - 1])
    levels = torch.bernoulli(chances.T.sigmoid())
    levels[:, 1], levels[7, 1] = 0, 1  # a pixel that is almost never on
    fitted = pixels.CalibratedBernoulli.fit(levels, reconstructions)
    for pixel in range(3):
        inputs = torch.stack([reconstructions[:, pixel], torch.ones(400)], 1)
        expected = LogisticRegression(C=1 / pixels.PENALTY, fit_intercept=False, tol=1e-10, max_iter=1000)
        expected.fit(inputs.numpy(), levels[:, pixel].numpy())
        found = [fitted.slope[pixel].item(), fitted.intercept[pixel].item()]
        assert found == pytest.approx(expected.coef_[0].tolist(), abs=1e-4)


def test_a_pixel_that_its_reconstruction_gives_away_costs_next_to_nothing_and_no_parameter_is_infinite(pixels):
    levels = torch.bernoulli(torch.full((1000, 2), 0.3))
    levels[:, 1] = 0
    fitted = pixels.CalibratedBernoulli.fit(levels, levels)
    assert fitted.slope.isfinite().all() and fitted.intercept.isfinite().all()
    assert fitted.costs(levels, levels).max() < 0.02


def test_costs_of_a_bernoulli_are_those_of_a_loop(pixels):
    levels, reconstructions = torch.bernoulli(torch.full((4, 3), 0.5)), torch.rand(4, 3)
    likelihood = pixels.CalibratedBernoulli(torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 0.0, -1.0]))
    costs = [0.0] * 4
    for image, pixel in product(range(4), range(3)):
        logit = (
            likelihood.slope[pixel].item() * reconstructions[image, pixel].item() + likelihood.intercept[pixel].item()
        )
        probability = 1 / (1 + math.exp(-logit))
        costs[image] -= math.log(probability if levels[image, pixel] else 1 - probability)
    assert likelihood.costs(levels, reconstructions).tolist() == pytest.approx(costs, rel=1e-5)


def test_a_logistic_has_bins_that_sum_to_one_and_costs_their_logarithms(pixels):
    likelihood = pixels.CalibratedLogistic(torch.tensor([3.0]))
    levels, reconstructions = torch.arange(256.0).unsqueeze(1), torch.full((256, 1), 100.25)
    costs = likelihood.costs(levels, reconstructions)
    assert costs.neg().exp().sum().item() == pytest.approx(1, abs=1e-5)
    below, above = (1 / (1 + math.exp(-(edge - 100.25) / 3)) for edge in (97.5, 98.5))
    assert costs[98].item() == pytest.approx(-math.log(above - below), rel=1e-5)


def test_the_scale_of_a_dimension_is_the_best_of_those_tried(pixels):
    noise = torch.distributions.Uniform(0, 1).sample((4000, 2)).logit() * torch.tensor([2.0, 12.0])  # of logistics
    levels, reconstructions = (128 + noise).round().clamp(0, 255), torch.full((4000, 2), 128.0)
    fitted = pixels.CalibratedLogistic.fit(levels, reconstructions)
    assert fitted.scales.tolist() == pytest.approx([2.0, 12.0], rel=0.25)  # tried are steps of 34 %
    for factor in (0.7, 1.4):
        others = pixels.CalibratedLogistic(fitted.scales * factor)
        assert others.costs(levels, reconstructions).mean() > fitted.costs(levels, reconstructions).mean()


def test_components_have_the_variances_of_the_images_and_what_is_left_out_is_the_error(script):
    images = correlated()
    components = script.Components.of(images)
    torch.testing.assert_close(components.directions.T @ components.directions, torch.eye(12), atol=1e-5, rtol=0)
    assert (components.deviations.diff() <= 0).all()
    encoded = components.encode(images)
    torch.testing.assert_close(encoded.var(0, correction=0), components.deviations.square(), rtol=1e-3, atol=1e-3)
    for count in (3, 12):
        error = components.decode(encoded[:, :count]) - images.flatten(1)
        expected = components.deviations[count:].square().sum()
        torch.testing.assert_close(error.square().sum(1).mean(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_rounded_component_has_so_many_values_and_more_bits_are_closer(script, bits):
    images = correlated(count=600)
    components = script.Components.of(images)
    encoded, found = components.encode(images), {}
    for number in (bits, bits + 1):
        reconstructions = script.rounded(images, components, count=2, bits=number)
        found[number] = (reconstructions - components.mean) @ components.directions[:, :2]
    for values, deviation in zip(found[bits].T, components.deviations, strict=False):
        assert len((values / deviation).mul(1e3).round().unique()) <= 2**bits - 1
        assert values.abs().max() <= script.REACH * deviation * 1.001
    errors = {number: (values - encoded[:, :2]).square().mean() for number, values in found.items()}
    assert errors[bits + 1] < errors[bits]


def test_floats_of_all_components_are_the_image(script):
    images = correlated()
    found = script.rounded(images, script.Components.of(images), count=12, bits=32)
    torch.testing.assert_close(found, images.flatten(1).float(), rtol=0, atol=1e-2)


def test_a_patch_with_a_code_for_every_kind_costs_what_the_mean_patch_adds(script):
    kinds = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    counts = torch.tensor([50, 10, 30, 5, 5])
    train = kinds.repeat_interleave(counts, 0)[torch.randperm(100)]
    mean = (train.sum(0) + 0.5) / 101
    own = torch.where(kinds == 1, mean, 1 - mean)  # probability of a pixel in the mean patch
    expected = -((counts.unsqueeze(1) + own) / (counts.unsqueeze(1) + 1)).log().sum(1)
    bits, costs = script.of_patch(train, kinds)
    assert bits == 3
    torch.testing.assert_close(costs, expected)


def test_a_patch_has_the_code_of_least_cost(script, monkeypatch):
    monkeypatch.setattr(script, "CENTROIDS", 4)
    train = torch.bernoulli(torch.tensor([[0.9, 0.8, 0.1, 0.1], [0.1, 0.2, 0.9, 0.7]]).repeat(100, 1))
    bits, costs = script.of_patch(train, train[:20])
    assert bits == 2
    codes = script.k_means(train).labels_
    for patch, cost in zip(train[:20], costs.tolist(), strict=True):
        possible = []
        for code in range(4):
            own = train[codes == code]
            chances = [
                (own[:, d].sum().item() + (train[:, d].sum().item() + 0.5) / 201) / (len(own) + 1) for d in range(4)
            ]
            possible.append(-sum(math.log(p if x else 1 - p) for x, p in zip(patch, chances, strict=True)))
        assert cost == pytest.approx(min(possible), rel=1e-4)


def test_patches_cover_every_pixel_once_and_their_bits_and_costs_add_up(script, monkeypatch):
    monkeypatch.setattr(script, "GRIDS", ((1, 1), (3, 2), (9, 9)))
    images = script.Images(random_levels(900, 1, 5, 4, levels=2), random_levels(7, 1, 5, 4, levels=2), 2)
    train, test = (part.flatten(1).float() for part in (images.train, images.test))
    whole, parts = script.of_patches(images)  # the last grid has more rows than the images
    assert (whole.bits, whole.costs.tolist()) == (8, script.of_patch(train, test).costs.tolist())
    rows = [range(0, 2), range(2, 4), range(4, 5)]
    cut = [[4 * y + x for y in ys for x in xs] for ys in rows for xs in (range(0, 2), range(2, 4))]
    costs = sum(script.of_patch(train[:, patch], test[:, patch]).costs for patch in cut)
    assert parts.bits == 4 * 4 + 2 * 2  # 2 x 2 pixels have 16 kinds, 1 x 2 have 4
    torch.testing.assert_close(parts.costs, costs)


def test_parts_share_the_variance_and_every_component_is_in_one(script):
    sizes = torch.linspace(5, 0.1, 40).square()
    parts = script.balanced(sizes, 6)
    assert sorted(number for part in parts for number in part) == list(range(40))
    totals = [sizes[list(part)].sum().item() for part in parts]
    assert len(totals) == 6 and max(totals) - min(totals) <= sizes.max().item()
    assert len(script.balanced(sizes[:3], 6)) == 3


def test_a_quantizer_with_a_centroid_for_every_image_is_lossless(script):
    images = correlated(count=30)
    components = script.Components.of(images)
    encoded = components.encode(images)
    parts = ((0, 1, 5), (2, 3, 4), tuple(range(6, 12)))
    quantizers = {part: KMeans(len(images), n_init=1).fit(encoded[:, part].numpy()) for part in parts}
    found = script.quantized(images, components, quantizers)
    torch.testing.assert_close(found, images.flatten(1).float(), rtol=0, atol=1e-2)


def test_a_quantizer_of_grey_levels_counts_its_bits_and_more_parts_cost_less(script, monkeypatch):
    monkeypatch.setattr(script, "PARTS", (1, 4))
    monkeypatch.setattr(script, "CENTROIDS", 16)
    monkeypatch.setattr(script, "FITTED_IMAGES", 200)
    images = script.Images(correlated(count=1000), correlated(count=50), 256)
    images = script.Images(images.train[:900], images.train[900:], 256)
    few, many = script.of_parts(images, script.Components.of(images.train))
    assert (few.bits, many.bits) == (4, 16)
    assert many.costs.mean() < few.costs.mean()


@pytest.mark.parametrize(("codes", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9)])
def test_bits_number_the_codes(script, codes, bits):
    assert script.bits_of(codes) == bits == math.ceil(math.log2(codes))


def test_test_images_are_those_of_evaluate(script, tmp_path):
    images = script.Images.load("digits", tmp_path, 70)
    batch, counted = next(build_episodes(Config.preset("digits"), torch.device("cpu")).test.batches(3))
    assert torch.equal(images.test.float(), batch[counted][:70])
    assert images.levels == 2 and set(images.train.unique().tolist()) == {0, 1}
    assert images.train.float().mean().item() == pytest.approx(images.test.float().mean().item(), abs=0.02)


@pytest.mark.parametrize(("levels", "channels"), [(2, 1), (256, 1), (256, 3)])
@pytest.mark.parametrize("name", ["PNG", "WebP"])
def test_files_of_noise_are_no_smaller_than_its_entropy_and_those_of_nothing_small(
    script, name, levels, channels, monkeypatch
):
    monkeypatch.setattr(script, "STRIP", 40)
    noise = random_levels(60, channels, 16, 16, levels=levels)
    entropy = channels * 256 * math.log2(levels)
    assert entropy < script.of_files(script.Images(noise, noise, levels), name) < 1.5 * entropy
    assert script.of_files(script.Images(noise, noise * 0, levels), name) < 0.1 * entropy


def test_costs_given_components_fall_with_them_and_bits_are_counted(script, monkeypatch):
    monkeypatch.setattr(script, "COMPONENTS", {2: (4, 64, 300)})
    images = script.Images.load("digits", ROOT, 200)
    components = script.Components.of(images.train)
    few, many = script.of_components(images, components, bits=6)  # the digits have 256 components
    assert (few.bits, many.bits) == (24, 384)
    assert many.costs.mean() < few.costs.mean() / 2
    reconstruct = partial(script.rounded, components=components, count=4, bits=6)
    torch.testing.assert_close(script.costs_of(images, reconstruct), few.costs)
