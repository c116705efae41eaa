"""Mixtures of components that take one scalar after the other, against mixtures of normals with covariances."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.func import jacrev, vmap

from kpp_pyro.distributions.autoregressive_mixture import AutoregressiveMixture, component_log_prob
from kpp_pyro.priors.autoregressive import AutoregressivePrior

SIZE, COMPONENTS = 3, 2
GENERATOR = torch.Generator().manual_seed(1)
LOGITS = torch.randn(4, 1, COMPONENTS, dtype=torch.float64, generator=GENERATOR)
FEATURES = torch.randn(4, 1, COMPONENTS, 5, dtype=torch.float64, generator=GENERATOR)
WEIGHTS = torch.randn(SIZE, 5, dtype=torch.float64, generator=GENERATOR)
SLOPES = torch.tensor([[0.0, 0.0, 0.0], [0.7, 0.0, 0.0], [-0.4, 0.9, 0.0]], dtype=torch.float64)


def linear(values: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """mu_s = sum_j<s SLOPES_sj x_j + (WEIGHTS f)_s, and ln sigma_s = sin((WEIGHTS f)_s) / 2."""
    shift = features @ WEIGHTS.mT
    return values @ SLOPES.mT + shift, shift.sin() / 2


def mixture(temperature: float = 1.0) -> AutoregressiveMixture:
    return AutoregressiveMixture(linear, FEATURES, LOGITS, SIZE, temperature)


def with_covariances(temperature: float = 1.0) -> MixtureSameFamily:
    """The same: x = SLOPES x + shift + sigma e, so that x = (I - SLOPES)^-1 (shift + sigma e)."""
    shift, log_scale = linear(torch.zeros(SIZE, dtype=torch.float64), FEATURES)
    inverse = torch.linalg.inv(torch.eye(SIZE, dtype=torch.float64) - SLOPES)
    scale = temperature * log_scale.exp()
    normals = MultivariateNormal(shift @ inverse.mT, scale_tril=inverse * scale.unsqueeze(-2))
    return MixtureSameFamily(Categorical(logits=LOGITS / temperature), normals)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("batch", [(4, 1), (4, 6), (2, 4, 6)])
def test_the_density_is_that_of_a_mixture_of_normals(batch, temperature):
    values = torch.randn(*batch, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = with_covariances(temperature).log_prob(values)
    torch.testing.assert_close(mixture(temperature).log_prob(values), expected)
    expanded = mixture(temperature).expand(batch)
    assert expanded.batch_shape == batch and expanded.event_shape == (SIZE,)
    torch.testing.assert_close(expanded.log_prob(values), expected)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_have_the_moments_of_a_mixture_of_normals(temperature):
    torch.manual_seed(3)
    number, expected = 20_000, with_covariances(temperature)
    draws = mixture(temperature).sample((number,))
    assert draws.shape == (number, 4, 1, SIZE)
    error = (draws - expected.mean) / expected.stddev
    assert error.mean(0).abs().max() < 5 / number**0.5
    products = error.unsqueeze(-1) * error.unsqueeze(-2) - _correlations(expected)
    assert (products.mean(0).abs() < 5 * products.std(0) / number**0.5).all()


def _correlations(mixture: MixtureSameFamily) -> Tensor:
    """Of the scalars of a mixture of normals, (..., S, S): the mean covariance, and the covariance of the means."""
    weights, normals = mixture.mixture_distribution.probs[..., None, None], mixture.component_distribution
    apart = (normals.mean - mixture.mean.unsqueeze(-2)).unsqueeze(-1)
    covariance = (weights * (normals.covariance_matrix + apart @ apart.mT)).sum(-3)
    return covariance / (mixture.stddev.unsqueeze(-1) * mixture.stddev.unsqueeze(-2))


def test_the_network_of_the_prior_takes_one_scalar_after_the_other():
    """d (mu_s, ln sigma_s) / d x_j is zero from j = s on, and not before."""
    network = AutoregressivePrior(SIZE).double().component
    for number, parameter in enumerate(network.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    values, features = torch.randn(20, SIZE, dtype=torch.float64), torch.randn(20, 192, dtype=torch.float64)
    for slopes in vmap(jacrev(network))(values, features):
        assert not slopes.triu(0).any()
        assert (slopes.abs().mean(0) > 1e-3).equal(torch.ones(SIZE, SIZE).tril(-1).bool())


def test_a_component_is_normalised():
    """Over two scalars, by the trapezoidal rule."""
    network = AutoregressivePrior(2).double().component
    for number, parameter in enumerate(network.parameters()):
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(number))
    line = torch.linspace(-15, 15, 301, dtype=torch.float64)
    values = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    features = torch.ones(192, dtype=torch.float64).expand(301, 301, -1)
    density = component_log_prob(network, values, features).exp()
    assert torch.trapezoid(torch.trapezoid(density, line), line).item() == pytest.approx(1, abs=1e-6)
