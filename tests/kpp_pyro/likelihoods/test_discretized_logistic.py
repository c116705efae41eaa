"""Likelihoods of grey levels: probabilities sum to one, are those of an oracle in float64, and those of samples."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pyro
import pytest
import scipy.special as special
import scipy.stats as stats
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kpp_pyro.errors import InputError
from kpp_pyro.likelihoods import LIKELIHOODS, Likelihood, bits_per_dim
from kpp_pyro.likelihoods.discretized_logistic import DiscretizedLogistic, DiscretizedLogisticMixture
from kpp_pyro.likelihoods.logistic_image import LogisticImage, log_probability

SINGLE, MIXTURE = DiscretizedLogistic(), DiscretizedLogisticMixture()
SMALL = (DiscretizedLogistic(8), DiscretizedLogisticMixture(8, 3))
LOCS = (-300.0, -127.5, -100.3, -0.2, 0.0, 0.5, 77.7, 127.5, 5000.0)  # in centred grey levels
SCALES = (math.exp(-8) * 127.5, 0.2, 1.0, 30.0, 2500.0)  # in grey levels
EDGE = 127.5
GREY = torch.arange(256) - EDGE
every_logistic = pytest.mark.parametrize(("loc", "scale"), [*product(LOCS, SCALES)])
by_name = pytest.mark.parametrize("likelihood", [SINGLE, MIXTURE], ids=["single", "mixture"])
by_small = pytest.mark.parametrize("likelihood", SMALL, ids=["single", "mixture"])


def outputs_for(
    likelihood: Likelihood, *batch: int, channels: int = 3, side: int = 2, spread: float = 1.0, seed: int = 1
):
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, likelihood.decoder_channels(channels), side, side)
    return (spread * torch.randn(shape, generator=generator)).requires_grad_()


def images_for(likelihood: Likelihood, *batch: int, channels: int = 3, side: int = 2, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    grey = torch.randint(0, likelihood.levels, (*batch, channels, side, side), generator=generator)
    return grey.float() / (likelihood.levels - 1)


def oracle_log_probability(level, loc, scale):
    """ln P(level) in float64 by SciPy's log of the CDF: another formula, in another precision."""
    upper, lower = (level + 0.5 - loc) / scale, (level - 0.5 - loc) / scale
    swap = lower > 0  # the smaller tail: sigmoid(a) - sigmoid(b) = sigmoid(-b) - sigmoid(-a)
    high, low = np.where(swap, -lower, upper), np.where(swap, -upper, lower)
    log_high, log_low = special.log_expit(high), special.log_expit(low)
    inside = log_high + np.log(-np.expm1(log_low - log_high))
    edges = [level == -EDGE, level == EDGE]
    return np.select(edges, [special.log_expit(upper), special.log_expit(-lower)], inside)


@every_logistic
def test_the_probabilities_of_all_levels_sum_to_one(loc: float, scale: float) -> None:
    log_p = log_probability(GREY, torch.tensor(loc), torch.tensor(scale), EDGE)
    assert log_p.isfinite().all()
    assert log_p.double().logsumexp(0).abs() < 2e-5


@every_logistic
def test_probabilities_and_gradients_are_those_of_an_oracle_in_float64(loc: float, scale: float) -> None:
    """Within 5e-6 of the value, or 1e-8 nats; far in the tails, where a difference of sigmoids is 0, within 1e-6."""
    at = torch.tensor([loc, scale], requires_grad=True)
    log_p = log_probability(GREY, at[0], at[1], EDGE)
    exact = [at[i].double().item() for i in range(2)]
    expected = oracle_log_probability(GREY.double().numpy(), *exact)
    torch.testing.assert_close(log_p.double(), torch.from_numpy(expected), rtol=5e-6, atol=1e-8)
    far = expected < -100
    torch.testing.assert_close(log_p.double()[far], torch.from_numpy(expected[far]), rtol=1e-6, atol=0)
    double = torch.tensor(exact, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(
        log_probability(GREY.double(), double[0], double[1], EDGE), torch.from_numpy(expected), rtol=1e-9, atol=1e-12
    )
    for level in (0, 1, 100, 128, 254, 255):
        own = torch.autograd.grad(log_p[level], at, retain_graph=True)[0]
        for index in range(2):
            step = 1e-4 * exact[1]
            moved = [[*exact], [*exact]]
            moved[0][index] += step
            moved[1][index] -= step
            high, low = (oracle_log_probability(GREY.double().numpy()[level : level + 1], *m)[0] for m in moved)
            slope = (high - low) / (2 * step)
            assert own[index].item() == pytest.approx(slope, rel=1e-3, abs=1e-5 / exact[1]), (level, index)


@by_small
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_the_probabilities_of_all_colours_sum_to_one(likelihood: Likelihood, spread: float) -> None:
    colours = torch.tensor(list(product(range(8), repeat=3))).float().view(512, 3, 1, 1) / 7
    outputs = outputs_for(likelihood, 20, 1, side=1, spread=spread)
    log_p = likelihood.distribution(outputs, 3).log_prob(colours)  # (20, 512)
    torch.testing.assert_close(log_p.double().logsumexp(-1), torch.zeros(20).double(), rtol=0, atol=1e-5)


def by_loops(likelihood: Likelihood, outputs: np.ndarray, image: np.ndarray) -> float:
    """ln p(image) in float64, pixel by pixel and component by component, from the outputs as they are documented."""
    K, C = getattr(likelihood, "components", 1), image.shape[0]
    y, total = image * 255 - EDGE, 0.0
    for row, column in product(range(image.shape[1]), range(image.shape[2])):
        out = outputs[:, row, column]
        logits, out = (out[:K], out[K:]) if isinstance(likelihood, DiscretizedLogisticMixture) else (np.zeros(1), out)
        locs, raw, couplings = out[: K * C], out[K * C : 2 * K * C], out[2 * K * C :]
        joint = special.log_softmax(logits)
        for k in range(K):
            pair = iter(couplings[k * C * (C - 1) // 2 :])
            for c in range(C):
                loc = EDGE * locs[k * C + c] + sum(np.tanh(next(pair)) * y[j, row, column] for j in range(c))
                scale = EDGE * (math.exp(-8) + np.logaddexp(0, raw[k * C + c] - 0.8))
                joint[k] += oracle_log_probability(y[c, row, column], loc, scale)
        total += special.logsumexp(joint)
    return total


@by_name
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_an_image_is_scored_as_by_loops_over_pixels_components_and_channels(
    likelihood: Likelihood, channels: int, spread: float
) -> None:
    outputs = outputs_for(likelihood, 2, channels=channels, spread=spread)
    image = images_for(likelihood, 2, channels=channels)
    scored = likelihood.distribution(outputs, channels).log_prob(image)
    raw, levels = outputs.detach().double().numpy(), (image * 255).round().double().numpy() / 255
    expected = torch.tensor([by_loops(likelihood, raw[i], levels[i]) for i in range(2)])
    torch.testing.assert_close(scored.double(), expected.double(), rtol=2e-6, atol=1e-4)
    precise = likelihood.distribution(outputs.detach().double(), channels).log_prob(image.double())
    torch.testing.assert_close(precise, expected.double(), rtol=1e-7, atol=1e-7)


@by_name
def test_gradients_with_respect_to_the_outputs_are_finite_differences(likelihood: Likelihood) -> None:
    outputs = outputs_for(likelihood, side=1).detach().double().requires_grad_()
    image = images_for(likelihood, side=1).double()
    image[1] = 1.0  # an edge
    assert torch.autograd.gradcheck(lambda raw: likelihood.distribution(raw, 3).log_prob(image), outputs)


@by_name
@pytest.mark.parametrize("size", [0.0, 15.0, 90.0, 1e4, 1e8])
def test_values_and_gradients_are_finite_whatever_the_outputs(likelihood: Likelihood, size: float) -> None:
    outputs = (size * outputs_for(likelihood, 64).detach().sign()).requires_grad_()
    log_p = likelihood.distribution(outputs, 3).log_prob(
        images_for(likelihood, 64).where(torch.rand(64, 3, 2, 2) < 0.5, 0.0)
    )
    log_p.sum().backward()
    assert log_p.isfinite().all() and outputs.grad is not None and outputs.grad.isfinite().all()


@pytest.mark.parametrize("raw", [-10.0, -30.0, -80.0])
def test_a_scale_at_its_floor_still_has_a_gradient_to_grow(raw: float) -> None:
    outputs = torch.zeros(2, 1, 1)
    outputs[1] = raw
    outputs.requires_grad_()
    SINGLE.distribution(outputs, 1).log_prob(torch.tensor([[[64 / 255]]])).backward()  # far from the location
    assert outputs.grad is not None and outputs.grad[1] > 0


def test_outputs_of_zero_mean_the_middle_and_a_broad_scale() -> None:
    image = SINGLE.distribution(torch.zeros(9, 1, 1), 3)
    assert (image.locs == 0).all() and (image.couplings == 0).all()
    torch.testing.assert_close(image.scales.log(), torch.full((1, 3, 1, 1), math.log(EDGE) - 1), rtol=0, atol=0.02)
    torch.testing.assert_close(image.mean, torch.full((3, 1, 1), 0.5))


def test_an_image_that_is_known_exactly_costs_less_than_a_ten_thousandth_of_a_bit() -> None:
    """At the smallest scale, of e^-8 on [-1, 1]: 2 e^(-1 / (2 s)) nats."""
    image = images_for(SINGLE, side=8)
    outputs = torch.cat([2 * image - 1, torch.full_like(image, -50.0), torch.zeros_like(image)])
    nats = -SINGLE.distribution(outputs, 3).log_prob(image)
    at_edges = ((image == 0) | (image == 1)).float().mean()
    expected = (2 - at_edges) * math.exp(-math.exp(8) / 255) / math.log(2)
    torch.testing.assert_close(bits_per_dim(nats, (3, 8, 8)), expected, rtol=0.02, atol=0)
    assert bits_per_dim(nats, (3, 8, 8)) < 1e-4


def test_a_uniform_model_costs_eight_bits_per_dimension() -> None:
    """One sharp component on each level, equally probable: what leaks from a level comes from its neighbours."""
    likelihood, image = DiscretizedLogisticMixture(components=256), torch.arange(256).view(1, 16, 16) / 255
    locs, raw = (2 * torch.arange(256) / 255 - 1), torch.full((256,), -50.0)
    outputs = torch.cat([torch.zeros(256), locs, raw]).view(-1, 1, 1).expand(-1, 16, 16)
    bits = bits_per_dim(-likelihood.distribution(outputs, 1).log_prob(image), (1, 16, 16))
    assert bits.item() == pytest.approx(8, abs=1e-5)


def test_bits_per_dimension_of_numbers_and_tensors() -> None:
    assert bits_per_dim(3 * 4 * 5 * math.log(2), (3, 4, 5)) == pytest.approx(1)
    torch.testing.assert_close(
        bits_per_dim(torch.tensor([-2.0, 2.0]), (1, 1, 2)), torch.tensor([-1.0, 1.0]) / math.log(2)
    )


def test_a_mixture_of_one_is_a_single_logistic() -> None:
    one, outputs, image = DiscretizedLogisticMixture(components=1), outputs_for(SINGLE, 5), images_for(SINGLE, 5)
    with_logit = torch.cat([torch.randn(5, 1, 2, 2), outputs], -3)
    mixture, single = one.distribution(with_logit, 3), SINGLE.distribution(outputs, 3)
    assert torch.equal(mixture.log_prob(image), single.log_prob(image))
    assert torch.equal(mixture.mean, single.mean) and torch.equal(mixture.mode, single.mode)


@by_small
def test_samples_have_the_probabilities_that_are_scored(likelihood: Likelihood) -> None:
    """Chi-square over all 512 colours, channels coupled."""
    draws, colours = 40_000, torch.tensor(list(product(range(8), repeat=3))).float().view(512, 3, 1, 1) / 7
    for seed in range(3):
        image = likelihood.distribution(outputs_for(likelihood, side=1, seed=seed).detach(), 3)
        expected = image.log_prob(colours).exp().double().numpy() * draws
        drawn = (image.sample((draws,)) * 7).round().long().flatten(1)
        found = np.bincount((drawn * torch.tensor([64, 8, 1])).sum(-1).numpy(), minlength=512)
        often = expected >= 5
        pooled = [np.append(counts[often], counts[~often].sum()) for counts in (found, expected)]
        assert stats.chisquare(pooled[0], pooled[1] * draws / pooled[1].sum()).pvalue > 1e-3


@by_name
def test_samples_are_levels_and_differ(likelihood: Likelihood) -> None:
    image = likelihood.distribution(outputs_for(likelihood, 2, 3, side=4, spread=3.0), 3)
    drawn = image.sample((5,))
    assert drawn.shape == (5, 2, 3, 3, 4, 4) and drawn.dtype == torch.float32 and not drawn.requires_grad
    assert torch.equal(drawn, (drawn * 255).round() / 255) and drawn.min() == 0 and drawn.max() == 1
    assert image.log_prob(drawn).isfinite().all()  # they are in the support
    assert not torch.equal(drawn[0], drawn[1])


def sharp_outputs(likelihood: Likelihood, *batch: int, raw_scale: float) -> torch.Tensor:
    outputs, K = outputs_for(likelihood, *batch, spread=0.2).detach(), getattr(likelihood, "components", 1)
    first = likelihood.decoder_channels(3) - 6 * K  # after the locations
    outputs[..., first : first + 3 * K, :, :] = raw_scale
    return outputs


@by_name
def test_the_mean_is_that_of_samples_whose_tails_reach_no_edge(likelihood: Likelihood) -> None:
    image = likelihood.distribution(sharp_outputs(likelihood, raw_scale=-3.0), 3)
    drawn = image.sample((20_000,))
    assert drawn.min() > 0 and drawn.max() < 1
    assert ((drawn.mean(0) - image.mean).abs() < 4.5 * drawn.std(0) / 20_000**0.5).all()


@by_name
def test_mean_and_mode_are_intensities_in_the_range(likelihood: Likelihood) -> None:
    image = likelihood.distribution(outputs_for(likelihood, 50, spread=5.0), 3)
    assert image.mean.shape == image.mode.shape == (50, 3, 2, 2)
    for value in (image.mean, image.mode):
        assert value.min() >= 0 and value.max() <= 1
    assert torch.equal(image.mode, (image.mode * 255).round() / 255)


def test_the_mode_of_a_grey_level_is_its_most_probable_level() -> None:
    outputs = outputs_for(SINGLE, 60, channels=1).detach()
    outputs[:, 1] = -6.0  # 0.14 grey levels: the most probable level of a broad scale may be an edge
    image, every = SINGLE.distribution(outputs, 1), torch.arange(256).view(256, 1, 1, 1, 1).expand(-1, 1, 1, 2, 2) / 255
    log_p = log_probability(every * 255 - EDGE, image.locs.squeeze(1), image.scales.squeeze(1), EDGE)
    found = log_p.gather(0, (image.mode * 255).round().long().unsqueeze(0))
    torch.testing.assert_close(found, log_p.amax(0, keepdim=True), rtol=0, atol=1e-3)


@by_name
def test_the_mode_of_a_colour_is_fed_from_channel_to_channel(likelihood: Likelihood) -> None:
    image = likelihood.distribution(outputs_for(likelihood, 40, side=1).detach(), 3)
    mode = image.mode[..., 0, 0] * 255 - EDGE  # (40, 3)
    for at, k in enumerate(image.log_weights[..., 0, 0].argmax(-1)):
        loc, (green, blue, blue_of_green) = image.locs[at, k, :, 0, 0], image.couplings[at, k, :, 0, 0]
        red, given = mode[at, 0], mode[at, 1]
        expected = torch.stack([loc[0], loc[1] + green * red, loc[2] + blue * red + blue_of_green * given])
        assert (mode[at] - expected.clamp(-EDGE, EDGE)).abs().max() <= 0.5 + 1e-4


@by_name
def test_values_off_the_levels_are_refused(likelihood: Likelihood) -> None:
    image = likelihood.distribution(outputs_for(likelihood, 2), 3)
    levels = images_for(likelihood, 2)
    assert image.support.check(levels).all() and image.support.check(levels + 0.9e-3 / 255).all()
    for wrong in (
        0.5 / 255,
        1 / 510 + 0.001,
        2e-3 / 255,
        -0.01,
        1 + 1 / 255,
        -1 / 255,
        255.0,
        float("nan"),
        float("inf"),
    ):
        bad = levels.clone()
        bad[1, 2, 1, 0] = wrong
        assert image.support.check(bad).tolist() == [True, False]
        for distribution in (image, image.expand((3, 2))):
            with pytest.raises(ValueError, match="support"):
                distribution.log_prob(bad)
    with pytest.raises(ValueError, match="support"):
        image.log_prob(levels.bfloat16().float())
    for whole in ((levels * 255).byte(), (levels * 255).int(), levels > 0.5):
        with pytest.raises(ValueError, match="expected floats k / 255, found torch"):
            image.log_prob(whole)


@by_name
def test_outputs_that_are_not_numbers_are_refused(likelihood: Likelihood) -> None:
    for channel in range(likelihood.decoder_channels(3)):
        outputs = outputs_for(likelihood).detach()
        outputs[channel, 0, 0] = float("nan")
        with pytest.raises(ValueError, match="Expected parameter"):
            likelihood.distribution(outputs, 3)


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_outputs_of_another_number_of_channels_are_refused(name: str) -> None:
    likelihood = LIKELIHOODS[name]
    for found in (outputs_for(likelihood, 2, channels=2), torch.zeros(likelihood.decoder_channels(3))):
        with pytest.raises(InputError, match=r"outputs of the decoder: expected shape \(\.\.\., \d+, H, W\), found \("):
            likelihood.distribution(found, 3)


def test_channels_of_the_decoder() -> None:
    channels = {name: [found.decoder_channels(C) for C in (1, 2, 3)] for name, found in LIKELIHOODS.items()}
    assert channels["bernoulli"] == [1, 2, 3]
    assert channels["discretized_logistic"] == [2, 5, 9]
    assert channels["discretized_logistic_mixture"] == [30, 60, 100]
    assert channels["local_autoregressive"] == [21, 42, 66]
    assert channels["local_bernoulli"] == [5, 10, 15]
    assert {name: found.levels for name, found in LIKELIHOODS.items()} == {
        **{"bernoulli": 2, "discretized_logistic": 256, "discretized_logistic_mixture": 256},
        **{"local_autoregressive": 256, "local_bernoulli": 2},
    }


@by_name
def test_outputs_in_half_precision_are_scored_in_float32(likelihood: Likelihood) -> None:
    outputs, image = outputs_for(likelihood, 2).bfloat16(), images_for(likelihood, 2)
    half, full = (likelihood.distribution(raw, 3).log_prob(image) for raw in (outputs, outputs.float()))
    assert half.dtype == torch.float32 and torch.equal(half, full)
    assert likelihood.distribution(outputs, 3).sample().dtype == torch.float32


@by_name
def test_it_expands_to_new_plates_and_stays_itself_in_its_own(likelihood: Likelihood) -> None:
    image = likelihood.distribution(outputs_for(likelihood, 4, 1), 3)
    value = images_for(likelihood, 3)
    assert image.expand((4, 1)) is image
    wide = image.expand((2, 4, 3))
    assert wide.batch_shape == (2, 4, 3) and wide.event_shape == (3, 2, 2)
    assert wide.sample().shape == wide.mean.shape == wide.mode.shape == (2, 4, 3, 3, 2, 2)
    torch.testing.assert_close(wide.log_prob(value), image.log_prob(value).expand(2, 4, 3))


@by_name
def test_everything_stays_on_a_pretended_gpu(likelihood: Likelihood) -> None:
    """No tensor of the CPU meets one of the GPU, and no value is asked for."""
    gpu = torch.device("cuda", 0)
    with FakeTensorMode(), pyro.validation_enabled(False), gpu:
        image = likelihood.distribution(torch.zeros(2, likelihood.decoder_channels(3), 4, 4), 3)
        for made in (image.log_prob(torch.ones(2, 3, 4, 4)), image.mean, image.mode, image.sample()):
            assert made.device == gpu


def test_a_distribution_with_parameters_of_its_own() -> None:
    """Two components that are each certain of a level share its probability by their weights."""
    locs = torch.tensor([-3.5, 1.5]).view(2, 1, 1, 1)
    weights = torch.tensor([0.25, 0.75]).view(2, 1, 1)
    image = LogisticImage(weights.log(), locs, torch.full_like(locs, 0.01), torch.zeros(2, 0, 1, 1), levels=8)
    p = image.log_prob(torch.arange(8).view(8, 1, 1, 1) / 7).exp()
    torch.testing.assert_close(p, torch.tensor([0.25, 0, 0, 0, 0, 0.75, 0, 0]))
    torch.testing.assert_close(image.mean.squeeze(), torch.tensor((0.25 * 0 + 0.75 * 5) / 7))
    torch.testing.assert_close(image.mode.squeeze(), torch.tensor(5 / 7))
