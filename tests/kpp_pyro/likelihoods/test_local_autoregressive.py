"""Local autoregressive likelihoods: densities, those of loops over pixels, and those of their samples."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import scipy.special as special
import scipy.stats as stats
import torch

from kpp_pyro.likelihoods import Likelihood
from kpp_pyro.likelihoods.local_autoregressive import LocalAutoregressive
from kpp_pyro.likelihoods.local_bernoulli import LocalBernoulli
from tests.kpp_pyro.likelihoods.test_discretized_logistic import (
    EDGE,
    images_for,
    oracle_log_probability,
    outputs_for,
)

LIKELIHOOD = LocalAutoregressive()
START = np.array([[0.75, 0.75, -0.5, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
OFFSETS = (0, -1), (-1, 0), (-1, -1), (-1, 1)


def by_loops(outputs: np.ndarray, image: np.ndarray) -> float:
    """ln p(image) in float64, from the outputs as they are documented."""
    (C, H, W), K = image.shape, 3
    y, total = image * 255 - EDGE, 0.0
    for row, column in product(range(H), range(W)):
        sizes = np.cumsum([K, K * C, K * C, K * C * (C - 1) // 2])
        logits, locs, raw, couplings, changes = np.split(outputs[:, row, column], sizes)
        coefficients = START[:, None, :] + changes.reshape(K, C, 4)
        joint = special.log_softmax(logits)
        for k in range(K):
            pair, errors = iter(couplings[k * C * (C - 1) // 2 :]), []
            for c in range(C):
                loc = EDGE * locs[k * C + c]
                for n, (down, right) in enumerate(OFFSETS):
                    if row + down >= 0 and 0 <= column + right < W:
                        loc += coefficients[k, c, n] * y[c, row + down, column + right]
                errors.append(y[c, row, column] - loc)
                loc += sum(np.tanh(next(pair)) * errors[j] for j in range(c))
                scale = EDGE * (math.exp(-8) + np.logaddexp(0, raw[k * C + c] - 0.8))
                joint[k] += oracle_log_probability(y[c, row, column], loc, scale)
        total += special.logsumexp(joint)
    return total


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_an_image_is_scored_as_by_loops(channels: int) -> None:
    outputs = outputs_for(LIKELIHOOD, 2, channels=channels, side=4).detach().double()
    image = images_for(LIKELIHOOD, 2, channels=channels, side=4).double()
    image = (image * 255).round() / 255
    expected = [by_loops(outputs[i].numpy(), image[i].numpy()) for i in range(2)]
    found = LIKELIHOOD.distribution(outputs, channels).log_prob(image)
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-7, atol=1e-7)


def all_images(levels: int, height: int, width: int) -> torch.Tensor:
    values = torch.tensor(list(product(range(levels), repeat=height * width))).float()
    return values.view(-1, 1, height, width) / (levels - 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_binary_image_is_scored_as_by_loops(channels: int) -> None:
    likelihood = LocalBernoulli()
    outputs = outputs_for(likelihood, channels=channels, side=4, spread=2.0).detach().double()
    image = (torch.rand(channels, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    total = 0.0
    for c, row, column in product(range(channels), range(4), range(4)):
        logit = outputs[c, row, column].item()
        for n, (down, right) in enumerate(OFFSETS):
            if row + down >= 0 and 0 <= column + right < 4:
                logit += outputs[channels + 4 * c + n, row, column].item() * image[c, row + down, column + right].item()
        total += special.log_expit(logit if image[c, row, column] else -logit)
    found = likelihood.distribution(outputs, channels).log_prob(image)
    torch.testing.assert_close(found, torch.tensor(total).double(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("likelihood", "height", "width"),
    [
        (LocalAutoregressive(2), 3, 4),
        (LocalAutoregressive(3), 2, 3),
        (LocalAutoregressive(4), 2, 2),
        (LocalBernoulli(), 3, 4),
    ],
)
def test_the_probabilities_of_all_images_sum_to_one(likelihood: Likelihood, height: int, width: int) -> None:
    levels = likelihood.levels
    outputs = torch.randn(likelihood.decoder_channels(1), height, width, generator=torch.Generator().manual_seed(3))
    log_p = likelihood.distribution(outputs, 1).log_prob(all_images(levels, height, width))
    assert log_p.double().logsumexp(0).abs() < 1e-5


@pytest.mark.parametrize("likelihood", [LocalAutoregressive(2), LocalBernoulli()])
def test_samples_have_the_probabilities_that_are_scored(likelihood: Likelihood) -> None:
    """Chi-square over all 4,096 binary images of three rows and four columns."""
    images, draws = all_images(2, 3, 4), 200_000
    outputs = torch.randn(likelihood.decoder_channels(1), 3, 4, generator=torch.Generator().manual_seed(5))
    image = likelihood.distribution(outputs, 1)
    expected = image.log_prob(images).exp().double().numpy() * draws
    torch.manual_seed(0)
    drawn = image.sample((draws,)).flatten(1).double().numpy()
    found = np.bincount((drawn @ 2 ** np.arange(11, -1, -1)).astype(int), minlength=4096)
    often = expected >= 5
    pooled = [np.append(counts[often], counts[~often].sum()) for counts in (found, expected)]
    assert often.sum() > 50
    assert stats.chisquare(pooled[0], pooled[1] * draws / pooled[1].sum()).pvalue > 1e-3


@pytest.mark.parametrize("likelihood", [LIKELIHOOD, LocalBernoulli()])
def test_a_mean_depends_on_the_pixels_before_it_that_its_neighbours_reach(likelihood: Likelihood) -> None:
    outputs = outputs_for(likelihood, channels=1, side=5, spread=0.1)  # no mean is clamped
    mean = likelihood.distribution(outputs, 1).mean
    (gradient,) = torch.autograd.grad(mean[0, 2, 2], outputs)
    reached = [[0, c] for c in range(5)] + [[1, c] for c in range(4)] + [[2, c] for c in range(3)]
    assert gradient.abs().sum(0).nonzero().tolist() == reached


@pytest.mark.parametrize("likelihood", [LIKELIHOOD, LocalBernoulli()])
def test_gradients_with_respect_to_the_outputs_are_finite_differences(likelihood: Likelihood) -> None:
    outputs = outputs_for(likelihood, spread=0.5).detach().double().requires_grad_()
    image = images_for(likelihood).double()
    assert torch.autograd.gradcheck(lambda raw: likelihood.distribution(raw, 3).log_prob(image), outputs)
