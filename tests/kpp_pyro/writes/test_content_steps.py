"""Refined latents, against torch's own Adam, closed-form optima and gradients worked out by hand, in float64."""

from __future__ import annotations

import itertools

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from kpp_pyro.likelihoods.bernoulli import BernoulliImage
from kpp_pyro.memory.sign_code import SignCode
from kpp_pyro.writes.content_steps import LatentAscent, LearnedAscent, SignSearch

B, T, D = 2, 3, 4
SHAPE = (1, 3, 5)
PIXELS = 15


class Decoder(nn.Module):
    """Latents (B, T, D) to logits (B, T, *SHAPE)."""

    def __init__(self, smooth=True):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(D, 12), nn.Tanh(), nn.Linear(12, PIXELS))
        self.layers = self.layers if smooth else nn.Linear(D, PIXELS)
        self.double()

    def forward(self, latent):
        return 2 * self.layers(latent).unflatten(-1, SHAPE)


def latents(*batch):
    return torch.randn(*(batch or (B, T)), D, dtype=torch.float64)


def images(*batch):
    return (torch.rand(*(batch or (B, T)), *SHAPE) < 0.5).double()


def likelihood(decoder, factor=1.0):
    return lambda latent: BernoulliImage(decoder(latent / factor))


def normal_likelihood(weight, shape=SHAPE):
    """N(W z, I), whose log-density is quadratic in z."""
    return lambda latent: dist.Normal((latent @ weight.T).unflatten(-1, shape), 1.0).to_event(3)


def length_of(latent, step_size):
    return step_size * latent.square().mean((-2, -1), keepdim=True).sqrt()


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_every_image_becomes_more_probable_and_with_every_step(steps):
    density, latent, episode = likelihood(Decoder()), latents(5, 40), images(5, 40)
    before = density(LatentAscent(density, steps - 1)(latent, episode)).log_prob(episode)
    after = density(LatentAscent(density, steps)(latent, episode)).log_prob(episode)
    assert (after > before).all()


def test_the_first_step_is_as_long_in_every_direction():
    density, latent, episode = likelihood(Decoder()), latents().requires_grad_(), images()
    (gradient,) = torch.autograd.grad(density(latent).log_prob(episode).sum(), latent)
    expected = latent + length_of(latent, 0.1) * gradient.sign()
    torch.testing.assert_close(LatentAscent(density, 1, 0.1)(latent, episode), expected, atol=1e-9, rtol=0)


def test_steps_are_those_of_torch_s_adam_episode_by_episode():
    density, latent, episode = likelihood(Decoder()), latents(), images()
    refined = LatentAscent(density, 30, 0.05)(latent, episode)
    for b in range(B):
        theirs = latent[b].clone().requires_grad_()
        rate = length_of(latent, 0.05)[b].item()
        optimiser = torch.optim.Adam([theirs], rate, betas=(0.8, 0.99), eps=0.0, maximize=True)
        for _ in range(30):
            optimiser.zero_grad()
            density(theirs).log_prob(episode[b]).sum().backward()
            optimiser.step()
        torch.testing.assert_close(refined[b], theirs.detach(), atol=1e-9, rtol=0)


def test_many_steps_end_near_the_least_squares_of_a_quadratic():
    weight, latent = torch.randn(PIXELS, D, dtype=torch.float64), 3 + latents()
    episode = torch.randn(B, T, *SHAPE, dtype=torch.float64)
    optimum = episode.flatten(-3) @ torch.linalg.pinv(weight).T
    assert (latent - optimum).abs().max() > 50 * length_of(latent, 0.003).max()  # it begins far away
    refined = LatentAscent(normal_likelihood(weight), 1500, 0.003)(latent, episode)
    assert ((refined - optimum).abs() < length_of(latent, 0.003)).all()


def test_many_steps_end_where_the_gradient_of_a_logistic_regression_vanishes():
    """Newton's method finds the one maximum of a concave log-density."""
    decoder, latent, shape = nn.Linear(D, 60).double(), latents(), (1, 6, 10)
    density = lambda latent: BernoulliImage(decoder(latent).unflatten(-1, shape))  # noqa: E731
    episode = (torch.rand(B, T, *shape) < 0.5).double()
    best = torch.zeros(B, T, D, dtype=torch.float64)
    weight, bias = decoder.weight.detach(), decoder.bias.detach()
    for _ in range(30):
        probs = torch.sigmoid(best @ weight.T + bias)
        slope = (episode.flatten(-3) - probs) @ weight
        curvature = weight.T @ ((probs * (1 - probs)).unsqueeze(-1) * weight)
        best = best + torch.linalg.solve(curvature, slope)
    assert slope.abs().max() < 1e-10
    refined = LatentAscent(density, 1200, 0.01)(latent, episode)
    assert ((refined - best).abs() < length_of(latent, 0.01)).all()
    gap = density(best).log_prob(episode) - density(refined).log_prob(episode)
    assert gap.min() > -1e-12 and gap.max() < 1e-2


@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_a_scaled_latent_space_gives_scaled_results(factor):
    decoder, latent, episode = Decoder(), latents(), images()
    one = LatentAscent(likelihood(decoder), 20)(latent, episode)
    other = LatentAscent(likelihood(decoder, factor), 20)(factor * latent, episode)
    torch.testing.assert_close(other / factor, one, atol=1e-10, rtol=0)


def test_other_episodes_make_no_difference_and_the_order_of_images_neither():
    refine, latent, episode = LatentAscent(likelihood(Decoder()), 20), latents(), images()
    refined, order = refine(latent, episode), torch.randperm(T)
    for b in range(B):
        torch.testing.assert_close(refine(latent[b : b + 1], episode[b : b + 1]), refined[b : b + 1])
    foreign = refine(torch.cat([latent[:1], 100 * latent[1:]]), torch.cat([episode[:1], 1 - episode[1:]]))
    torch.testing.assert_close(foreign[:1], refined[:1])
    torch.testing.assert_close(refine(latent[:, order], episode[:, order]), refined[:, order])


def test_no_step_leaves_latents_as_they_are():
    latent = latents()
    assert torch.equal(LatentAscent(likelihood(Decoder()), 0)(latent, images()), latent)


def test_what_is_given_is_not_changed():
    latent, episode = latents(), images()
    before = latent.clone(), episode.clone()
    LatentAscent(likelihood(Decoder()), 5)(latent, episode)
    assert torch.equal(latent, before[0]) and torch.equal(episode, before[1])
    assert not latent.requires_grad


def test_the_gradient_of_what_follows_is_that_at_the_refined_point():
    """As if the steps had added a constant: through W a for latents a, of sum sin(z^3) at z the refined."""
    refine, episode = LatentAscent(likelihood(Decoder()), 8), images()
    start, weight = latents(), torch.eye(D, dtype=torch.float64).requires_grad_()
    refined = refine(start @ weight, episode)
    (refined**3).sin().sum().backward()
    point = refined.detach()
    slope = 3 * point**2 * (point**3).cos()
    assert (point - start).abs().min() > 0.01
    torch.testing.assert_close(weight.grad, start.flatten(0, 1).T @ slope.flatten(0, 1))


def test_without_gradients_it_refines_as_well_and_decoders_never_receive_any():
    decoder, latent, episode = Decoder(), latents().requires_grad_(), images()
    refine = LatentAscent(likelihood(decoder), 5)
    with torch.no_grad():
        without = refine(latent, episode)
    refined = refine(latent, episode)
    assert torch.equal(without, refined.detach()) and not torch.equal(without, latent)
    assert not without.requires_grad and refined.requires_grad
    assert not refine(latent.detach(), episode).requires_grad
    refined.sum().backward()
    assert torch.equal(latent.grad, torch.ones_like(latent))
    for parameter in decoder.parameters():
        assert parameter.grad is None and parameter.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_kept(dtype):
    refine = LatentAscent(likelihood(Decoder().to(dtype)), 3)
    assert refine(latents().to(dtype), images().to(dtype)).dtype == dtype


def test_gradients_too_small_to_be_squared_move_nothing_far():
    """In float32 the square of 1e-25 is zero: a step that is divided by its root would leave all bounds."""
    density = lambda latent: dist.Delta(latent.new_zeros(SHAPE), 1e-25 * latent.sum(-1), event_dim=3)  # noqa: E731
    latent = latents().float()
    refined = LatentAscent(density, 10)(latent, torch.zeros(B, T, *SHAPE))
    assert (refined - latent).abs().max() <= 10 * length_of(latent, 0.03).max()


def test_a_latent_of_zeros_and_one_without_a_gradient_stay():
    refine, zeros = LatentAscent(likelihood(Decoder()), 5), torch.zeros(B, T, D, dtype=torch.float64)
    assert torch.equal(refine(zeros, images()), zeros)
    weight = torch.randn(PIXELS, D, dtype=torch.float64)
    weight[:, 2] = 0
    latent = latents()
    refined = LatentAscent(normal_likelihood(weight), 5)(latent, torch.randn(B, T, *SHAPE, dtype=torch.float64))
    moved = (refined - latent).abs().flatten(0, 1).amax(0)
    assert moved[2] == 0 and moved[[0, 1, 3]].min() > 0.01


def test_grey_images_are_refined_by_their_cross_entropy():
    """Cues may be grey, which the Bernoulli's check would refuse; the checks are as they were afterwards."""
    decoder, latent = Decoder(), latents()
    grey = torch.rand(B, T, *SHAPE, dtype=torch.float64)
    refined = LatentAscent(likelihood(decoder), 10)(latent, grey)

    def cross_entropy(latent):
        probs = torch.sigmoid(decoder(latent))
        return -(grey * probs.log() + (1 - grey) * (1 - probs).log()).flatten(-3).sum(-1)

    assert (cross_entropy(refined) < cross_entropy(latent)).all()
    with pytest.raises(ValueError, match="support"):
        likelihood(decoder)(latent).log_prob(grey)


SIGNS = SignCode(2)


def signs(*batch):
    return latents(*batch).sign()


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_turning_signs_over_never_makes_an_image_less_probable(steps):
    density, latent, episode = likelihood(Decoder()), signs(5, 40), images(5, 40)
    before = density(SignSearch(density, steps - 1, SIGNS)(latent, episode)).log_prob(episode)
    refined = SignSearch(density, steps, SIGNS)(latent, episode)
    assert torch.equal(refined.abs(), torch.ones_like(refined))
    assert (density(refined).log_prob(episode) >= before).all()


def test_where_every_pixel_looks_at_one_sign_the_best_of_all_signs_are_found():
    weight = torch.zeros(PIXELS, D, dtype=torch.float64)
    weight[torch.arange(PIXELS), torch.arange(PIXELS) % D] = 1 + torch.rand(PIXELS, dtype=torch.float64)
    density, episode = normal_likelihood(weight), torch.randn(B, T, *SHAPE, dtype=torch.float64)
    every = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=D)), dtype=torch.float64)  # (2^D, D)
    fits = torch.stack([density(choice.expand(B, T, -1)).log_prob(episode) for choice in every])
    found = SignSearch(density, D * D, SIGNS)(signs(), episode)
    torch.testing.assert_close(found, every[fits.argmax(0)])


def test_where_every_pixel_looks_at_one_latent_the_best_of_all_levels_are_found():
    code = SignCode(4, 2)  # four levels
    weight = torch.zeros(PIXELS, D, dtype=torch.float64)
    weight[torch.arange(PIXELS), torch.arange(PIXELS) % D] = 1 + torch.rand(PIXELS, dtype=torch.float64)
    density, episode = normal_likelihood(weight), torch.randn(B, T, *SHAPE, dtype=torch.float64)
    levels = [2 * k / 3 - 1 for k in range(4)]
    every = torch.tensor(list(itertools.product(levels, repeat=D)), dtype=torch.float64)  # (4^D, D)
    fits = torch.stack([density(choice.expand(B, T, -1)).log_prob(episode) for choice in every])
    found = SignSearch(density, 3 * D * D, code)(code.round(latents()), episode)
    torch.testing.assert_close(found, every[fits.argmax(0)])


def test_with_as_many_steps_as_needed_no_single_sign_is_left_to_turn_over():
    density, latent, episode = likelihood(Decoder()), signs(4, 10), images(4, 10)
    refined = SignSearch(density, 60, SIGNS)(latent, episode)
    best = density(refined).log_prob(episode)
    for index in range(D):
        turned = refined.clone()
        turned[..., index] *= -1
        assert (density(turned).log_prob(episode) <= best).all()


def test_the_gradient_of_what_follows_passes_by_the_turns():
    density, episode = likelihood(Decoder()), images()
    latent = signs().requires_grad_()
    weight = torch.randn_like(latent)
    (found,) = torch.autograd.grad((weight * SignSearch(density, 5, SIGNS)(latent, episode)).sum(), latent)
    torch.testing.assert_close(found, weight)


def learned(density, steps=2, features=6, changed=True, code=None):
    ascent = LearnedAscent(density, steps, D, features, 7, code).double()
    for parameter in ascent.parameters() if changed else ():
        nn.init.normal_(parameter, std=0.3)
    return ascent


def test_learned_steps_begin_as_no_steps():
    latent = latents()
    assert torch.equal(learned(likelihood(Decoder()), changed=False)(latent, images(), torch.randn(B, T, 6)), latent)


@pytest.mark.parametrize("code", [None, SIGNS, SignCode(4, 2)], ids=["numbers", "signs", "four levels"])
def test_learned_steps_are_those_of_their_formula(code):
    density, latent, episode, features = likelihood(Decoder()), latents(), images(), torch.randn(B, T, 6).double()
    ascent, found = learned(density, code=code), latent.clone()
    levels = code.of if code else torch.clone
    scale = torch.stack([part.square().mean().sqrt() for part in latent]).view(B, 1, 1)
    for step in range(2):
        at = levels(found).detach().requires_grad_()
        (slope,) = torch.autograd.grad(density(at).log_prob(episode).sum(), at)
        unit = slope / torch.stack([part.square().mean().sqrt() for part in slope]).view(B, 1, 1)
        stem, head, rate = ascent.stems[step], ascent.heads[step], ascent.rates[step]
        hidden = torch.cat([found / scale, unit, features], -1) @ stem.weight.T + stem.bias
        bent = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        found = found + scale * (bent @ head.weight.T + head.bias + rate * unit)
    torch.testing.assert_close(ascent(latent, episode, features), levels(found))


@pytest.mark.parametrize(("code", "share"), [(None, 0.95), (SIGNS, 0.7)], ids=["numbers", "signs"])
def test_learned_steps_learn_to_ascend(code, share):
    """Trained on some images, they make others more probable."""
    density, trained_on, others = (
        likelihood(Decoder(smooth=False)),
        (latents(1, 200), images(1, 200)),
        (latents(1, 50), images(1, 50)),
    )
    ascent = learned(density, changed=False, code=code)
    levels = code.of if code else torch.clone
    optimizer = torch.optim.Adam(ascent.parameters(), 0.03)
    for _ in range(60):
        optimizer.zero_grad()
        latent, episode = trained_on
        density(ascent(latent, episode, latent.new_zeros(1, 200, 6))).log_prob(episode).mean().neg().backward()
        optimizer.step()
    latent, episode = others
    before, after = (
        density(z).log_prob(episode) for z in (levels(latent), ascent(latent, episode, latent.new_zeros(1, 50, 6)))
    )
    assert (after > before).double().mean() > share  # the signs of some images are the best ones from the start
    assert (after < before).double().mean() < 0.2


def test_the_gradient_of_learned_steps_takes_slopes_and_scales_as_constants():
    """By hand, for one step: through the networks' inputs and the sum, and not through the slope."""
    density, latent, episode = likelihood(Decoder()), latents().requires_grad_(), images()
    features = torch.randn(B, T, 6, dtype=torch.float64, requires_grad=True)
    ascent = learned(density, steps=1)
    ascent(latent, episode, features).sum().backward()
    fixed = latent.detach()
    at = fixed.clone().requires_grad_()
    (slope,) = torch.autograd.grad(density(at).log_prob(episode).sum(), at)
    scale = fixed.square().mean((-2, -1), keepdim=True).sqrt()
    slope = slope / slope.square().mean((-2, -1), keepdim=True).sqrt()

    def step(latent, features):
        hidden = ascent.stems[0](torch.cat([latent / scale, slope, features], -1))
        return latent + scale * (ascent.heads[0](nn.functional.gelu(hidden)) + ascent.rates[0] * slope)

    again = fixed.clone().requires_grad_(), features.detach().clone().requires_grad_()
    expected = torch.autograd.grad(step(*again).sum(), again)
    torch.testing.assert_close((latent.grad, features.grad), expected)
