"""The likelihood of binary images is that of independent Bernoulli pixels."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch

from kpp_pyro.likelihoods import kl_sites, with_bits_per_dim
from kpp_pyro.likelihoods.bernoulli import BernoulliImage, log_bernoulli


def logits(*batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return (3 * torch.randn(*batch, 1, 3, 2, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("particles", [(), (5,)])
def test_density_and_gradient_are_those_of_independent_pixels(particles: tuple[int, ...]) -> None:
    raw = logits(*particles, 4, 3)
    image = (torch.rand(4, 3, 1, 3, 2) < 0.5).double()
    ours, theirs = BernoulliImage(raw), dist.Bernoulli(logits=raw).to_event(3)
    torch.testing.assert_close(ours.log_prob(image), theirs.log_prob(image), rtol=1e-13, atol=1e-13)
    by_hand = (image * raw.sigmoid().log() + (1 - image) * (1 - raw.sigmoid()).log()).sum((-1, -2, -3))
    torch.testing.assert_close(ours.log_prob(image), by_hand, rtol=1e-9, atol=1e-9)
    for own, other in zip(
        *(torch.autograd.grad(q.log_prob(image).sin().sum(), raw) for q in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.mean, raw.sigmoid())


def test_first_and_second_derivatives_also_at_grey_values_equal_finite_differences() -> None:
    raw, values = logits(3), torch.linspace(0, 1, 18, dtype=torch.float64).view(3, 1, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(log_bernoulli, (raw, values))
    assert torch.autograd.gradgradcheck(log_bernoulli, (raw, values))


@pytest.mark.parametrize("size", [0.0, 1.0, 8.0, 16.0, 30.0, 200.0])
def test_certain_pixels_lose_no_more_than_the_rounding_of_a_number_near_one(size: float) -> None:
    raw, value = torch.tensor([size, -size, size, -size]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    exact = dist.Bernoulli(logits=raw.double()).log_prob(value.double())
    torch.testing.assert_close(log_bernoulli(raw, value).double(), exact, rtol=2e-7, atol=1.2e-7)


def test_probabilities_of_all_images_sum_to_one() -> None:
    pixels = torch.tensor([[number >> bit & 1 for bit in range(6)] for number in range(64)]).double()
    total = BernoulliImage(logits()).log_prob(pixels.view(64, 1, 3, 2)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total))


def test_it_expands_to_new_plates_and_stays_itself_in_its_own() -> None:
    likelihood = BernoulliImage(logits(4, 1))
    assert likelihood.expand((4, 1)) is likelihood
    wide, image = likelihood.expand((2, 4, 3)), torch.ones(1, 3, 2, dtype=torch.float64)
    assert wide.batch_shape == (2, 4, 3) and wide.event_shape == (1, 3, 2)
    torch.testing.assert_close(wide.log_prob(image), likelihood.log_prob(image).expand(2, 4, 3))


@pytest.mark.parametrize("expanded", [False, True])
def test_grey_pixels_are_refused(expanded: bool) -> None:
    likelihood = BernoulliImage(logits(4, 1))
    with pytest.raises(ValueError, match="support"):
        (likelihood.expand((4, 3)) if expanded else likelihood).log_prob(torch.full((4, 1, 1, 3, 2), 0.5).double())


def test_bits_per_dimension_stand_beside_every_nat_of_a_report():
    content = {
        "elbo_nats_per_image": -12.0 * math.log(2),
        "of_each": [{"nats_per_image": [None, 6 * math.log(2)]}],
        "k": 0.5,
    }
    assert with_bits_per_dim(content, (3, 2, 2)) == {
        **content,
        "elbo_bits_per_dim": pytest.approx(-1.0),
        "of_each": [{**content["of_each"][0], "bits_per_dim": [None, pytest.approx(0.5)]}],
    }


def test_the_kls_of_a_report_are_those_in_nats():
    names = ["kl_key_nats_per_image", "kl_key_bits_per_dim", "kl_key_weight", "memory_kl_nats_per_image"]
    assert kl_sites(names) == {"kl_key_nats_per_image": "key"}
