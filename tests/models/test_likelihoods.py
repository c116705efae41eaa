"""Every model with every likelihood of grey levels, on small colour images."""

from __future__ import annotations

import math

import pyro
import pytest
import torch

from inference import Config, build
from inference.objectives import make_objective
from inference.tracing import site_value, terms_of, trace_pair
from kpp_pyro.likelihoods import LIKELIHOODS, bits_per_dim
from models.pair import Pair
from models.registry import MODELS
from tests.inference.runs.test_step import NoWaiting
from tests.programs import SMALL

COLOUR = (3, 16, 16)
GREY_LEVELS = [name for name, likelihood in LIKELIHOODS.items() if likelihood.levels == 256]
KINDS = {name: {"model": name} for name in MODELS} | {
    "conv": {"networks": "conv"},
}
every_kind = pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
every_likelihood = pytest.mark.parametrize("likelihood", GREY_LEVELS)


def colour_pair(likelihood: str, **changes: object) -> Pair:
    chosen = {name: changes.pop(name) for name in ("model", "networks") if name in changes}
    return build(Config.preset(**chosen).replace(**SMALL, likelihood=likelihood, **changes), COLOUR)


def colour_episodes(episodes: int = 2, images: int = 5) -> torch.Tensor:
    """Smooth images, whose channels are alike."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(episodes * images, 1, 4, 4, generator=generator)
    grey = torch.nn.functional.interpolate(coarse, COLOUR[1:], mode="bilinear")
    tint = 0.8 + 0.2 * torch.rand(episodes * images, 3, 1, 1, generator=generator)
    return (grey * tint * 255).round().div(255).unflatten(0, (episodes, images))


@every_kind
@every_likelihood
def test_the_elbo_is_finite_and_every_output_of_the_decoder_learns(likelihood: str, changes: dict[str, object]) -> None:
    pair, episode = colour_pair(likelihood, **changes), colour_episodes()
    elbo = terms_of(trace_pair(pair.model, pair.guide, episode).log_probs()).elbo
    assert elbo.shape == (2, 5) and elbo.isfinite().all()
    elbo.sum().backward()
    gradients = {name: parameter.grad for name, parameter in pair.model.named_parameters() if "decoder" in name}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    heads = [gradient for name, gradient in gradients.items() if name.endswith(("head.1.bias", "head.2.bias"))]
    assert heads and all((with_neighbours(gradient) != 0).all() for gradient in heads if gradient is not None)


def with_neighbours(biases: torch.Tensor) -> torch.Tensor:
    """Without those of pixels at edges, if each pixel has its own: coefficients of neighbours that do not exist."""
    return biases if biases.numel() % (16 * 16) else biases.view(-1, 16, 16)[:, 1:, 1:-1]


@pytest.mark.parametrize(
    ("model", "likelihood"),
    [*((name, "discretized_logistic") for name in MODELS), *(("vae", name) for name in GREY_LEVELS[1:])],
)
def test_a_few_steps_lower_the_loss(model: str, likelihood: str) -> None:
    pair, episode = colour_pair(likelihood, model=model), colour_episodes()
    loss = make_objective("trace")(pair.model, pair.guide)
    optimizer = torch.optim.Adam(pair.parameters(), lr=3e-3)
    losses = []
    with pyro.validation_enabled(False):
        for _ in range(12):
            optimizer.zero_grad()
            losses.append(loss(episode))
            losses[-1].backward()
            optimizer.step()
    before, after = (torch.stack(part).mean().item() / 10 for part in (losses[:3], losses[-3:]))
    assert bits_per_dim(after, COLOUR) < bits_per_dim(before, COLOUR) - 0.3
    assert math.isfinite(after)


@every_likelihood
def test_images_are_generated_and_recalled_as_intensities(likelihood: str) -> None:
    pair, episode = colour_pair(likelihood), colour_episodes()
    trace = pair.model.generate(pair.guide.write_memory(episode), 3)
    drawn, latent = site_value(trace, "image"), site_value(trace, "latent")
    assert drawn.shape == (2, 3, *COLOUR) and torch.equal(drawn, (drawn * 255).round() / 255)
    mean = pair.model.image_likelihood(latent).mean
    assert mean.shape == drawn.shape and mean.min() >= 0 and mean.max() <= 1


@every_likelihood
@pytest.mark.parametrize("signs", [None, 4])
def test_content_steps_make_every_image_more_probable(likelihood: str, signs: int | None) -> None:
    pair, episode = colour_pair(likelihood, content_steps=10, signs_per_scalar=signs).eval(), colour_episodes()
    amortized, refined = pair.guide.amortized_encoding(episode), pair.guide.encode(episode)
    before, after = (pair.model.image_likelihood(code.latent_loc).log_prob(episode) for code in (amortized, refined))
    assert (after > before).all()


@every_likelihood
def test_no_operation_of_a_loss_waits_for_the_device(likelihood: str) -> None:
    pair, episode = colour_pair(likelihood), colour_episodes()
    loss = make_objective("trace")(pair.model, pair.guide)
    with pyro.validation_enabled(False), NoWaiting():
        loss(episode).backward()
