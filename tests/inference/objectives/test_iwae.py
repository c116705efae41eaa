"""Bounds of K particles per image: a conjugate toy in closed form, loops, finite differences, and real programs."""

from __future__ import annotations

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import AffineTransform
from pyro.infer import Trace_ELBO
from torch import nn

from inference.objectives import make_objective
from inference.objectives.iwae import ImageParticles
from inference.runs.trainer import ScaleSites, annealed
from inference.tracing import PLATE_NESTING
from kpp_pyro.errors import InputError
from tests.exact import LinearProgram, linear_episodes
from tests.inference.runs.test_step import NoWaiting
from tests.programs import WRITES, random_episodes, small_pair

WEIGHTS = {"key": 0.6, "latent": 0.3, "memory": 0.8}
deterministic_or_random = pytest.mark.parametrize("random", [False, True], ids=["deterministic", "random"])
OFF = {"at": 0.2, "key_at": 0.1, "key_slope": 0.15, "key_scale": -0.2, "slope": 0.45, "follow": 0.3, "scale": -0.5}


class Scalars(nn.Module):
    """Named parameters that are numbers; `*scale` is the logarithm of a standard deviation."""

    def __init__(self, **values: float) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))


class ToyModel(Scalars):
    """M flat or N(0, 1), y_t ~ N(0, 1), z_t ~ N(M + shift + turn y_t, s^2), x_t ~ N(z_t, n^2); all are numbers."""

    def __init__(self, random: bool = False, turn: float = 0.4) -> None:
        super().__init__(shift=0.3, turn=turn, scale=-0.3, noise_scale=-0.6)
        self.random = random

    def forward(self, episode, memory=None):
        zero = torch.zeros((), dtype=torch.float64)
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            prior = dist.Normal(zero, 1.0) if self.random else dist.ImproperUniform(dist.constraints.real, (), ())
            memory = pyro.sample("memory", prior, obs=memory)
            with pyro.plate("images", episode.shape[1], dim=-1):
                key = pyro.sample("key", dist.Normal(zero, 1.0))
                latent = pyro.sample("latent", dist.Normal(memory + self.shift + self.turn * key, self.scale.exp()))
                pyro.sample("image", dist.Normal(latent, self.noise_scale.exp()), obs=episode)

    def log_evidence(self, episode, memory):
        """ln p(x | M), (B, T)."""
        variance = self.turn**2 + (2 * self.scale).exp() + (2 * self.noise_scale).exp()
        return dist.Normal(memory + self.shift, variance.sqrt()).log_prob(episode)


class ToyGuide(Scalars):
    """M = write mean_t x_t, or normal about it; y_t and z_t normal about linear functions of x_t and M."""

    def __init__(self, random: bool = False, **values: float) -> None:
        super().__init__(write=0.7, memory_scale=-0.4, **{**OFF, **values})
        self.random, self.transformed = random, False

    def forward(self, episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            written = self.write * episode.mean(1, keepdim=True)
            if memory is None:
                posterior = dist.Normal(written, self.memory_scale.exp()) if self.random else dist.Delta(written)
                memory = pyro.sample("memory", posterior)
            with pyro.plate("images", episode.shape[1], dim=-1):
                pyro.sample("key", dist.Normal(self.key_at + self.key_slope * episode, self.key_scale.exp()))
                pyro.sample("latent", self.latent_posterior(episode, memory))

    def latent_posterior(self, episode, memory):
        loc, scale = self.at + self.slope * episode + self.follow * memory, self.scale.exp()
        if not self.transformed:
            return dist.Normal(loc, scale)
        moved = AffineTransform(loc, scale, cache_size=1)
        return dist.TransformedDistribution(dist.Normal(torch.zeros_like(loc), 1.0), [moved])


def toy(random=False):
    return ToyModel(random), ToyGuide(random)


def exact_toy():
    """Keys that nothing depends on, and the exact posterior of all others given M."""
    model = ToyModel(turn=0.0)
    prior, noise = (math.exp(2 * s.item()) for s in (model.scale, model.noise_scale))
    variance = 1 / (1 / prior + 1 / noise)
    slope, follow = variance / noise, variance / prior
    scales = {"key_at": 0.0, "key_slope": 0.0, "key_scale": 0.0, "scale": math.log(variance) / 2}
    return model, ToyGuide(slope=slope, follow=follow, at=follow * model.shift.item(), **scales)


def toy_episodes(copies=1):
    """Two episodes of three numbers each, in as many copies."""
    data = torch.tensor([[0.3, -1.0, 1.2], [0.9, 2.0, -0.4]], dtype=torch.float64)
    return data.repeat(copies, 1)


def loss_of(name, model, guide, episode, weights=None, seed=5, **options):
    torch.manual_seed(seed)
    with ScaleSites(weights or {}):
        return make_objective(name, **options)(model, guide)(episode)


def bound_of(*arguments, **options):
    with torch.no_grad(), pyro.validation_enabled(False):
        return -loss_of(*arguments, **options).item()


def gradients_of(name, model, guide, episode, weights=None, seed=5, **options):
    """By the names of the parameters, of the loss."""
    loss = loss_of(name, model, guide, episode, weights, seed, **options)
    named = {f"{part}.{n}": p for part, m in (("model", model), ("guide", guide)) for n, p in m.named_parameters()}
    used = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, used, strict=True) if gradient is not None}


# Values


def normal(value, loc, log_scale):
    return -0.5 * ((value - loc) / math.exp(log_scale)) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


def by_loops(model, guide, episode, draws, weights, alpha):
    """The bound, number by number."""
    p, q = ({n: v.item() for n, v in m.named_parameters()} for m in (model, guide))
    bound = 0.0
    for b, images in enumerate(episode.tolist()):
        memory = draws["memory"][b, 0].item()
        written = q["write"] * sum(images) / len(images)
        if model.random:
            bound += weights["memory"] * (normal(memory, 0, 0) - normal(memory, written, q["memory_scale"]))
        for t, x in enumerate(images):
            powers = []
            for k in range(len(draws["key"])):
                y, z = (draws[name][k, b, t].item() for name in ("key", "latent"))
                kl_key = normal(y, q["key_at"] + q["key_slope"] * x, q["key_scale"]) - normal(y, 0, 0)
                kl_latent = normal(z, q["at"] + q["slope"] * x + q["follow"] * memory, q["scale"])
                kl_latent -= normal(z, memory + p["shift"] + p["turn"] * y, p["scale"])
                log_weight = normal(x, z, p["noise_scale"]) - weights["key"] * kl_key - weights["latent"] * kl_latent
                powers.append(log_weight if alpha == 1 else math.exp((1 - alpha) * log_weight))
            mean = sum(powers) / len(powers)
            bound += mean if alpha == 1 else math.log(mean) / (1 - alpha)
    return bound


@deterministic_or_random
@pytest.mark.parametrize("weights", [dict.fromkeys(WEIGHTS, 1.0), WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    ("name", "alpha"), [("iwae", 0.0), ("dreg", 0.0), ("renyi", 0.5), ("renyi", 1.0), ("renyi", 3.0), ("renyi", -0.7)]
)
def test_the_bound_is_what_loops_over_episodes_images_and_particles_make_of_the_same_draws(
    name, alpha, weights, random
):
    (model, guide), episode = toy(random), toy_episodes()
    torch.manual_seed(5)
    with poutine.trace() as trace, ImageParticles("particles", 4, dim=-3):
        guide(episode)
    draws = {site: trace.trace.nodes[site]["value"] for site in ("memory", "key", "latent")}
    assert {site: draw.shape for site, draw in draws.items()} == {
        "memory": (2, 1),
        "key": (4, 2, 3),
        "latent": (4, 2, 3),
    }
    loss = loss_of(name, model, guide, episode, weights, particles=4, alpha=alpha)
    assert -loss.item() == pytest.approx(by_loops(model, guide, episode, draws, weights, alpha), rel=1e-12)


@pytest.mark.parametrize("name", ["iwae", "dreg"])
def test_the_bound_grows_with_the_particles_to_the_evidence(name):
    (model, guide), copies = toy(), 150
    episode, numbers = toy_episodes(copies), (1, 2, 4, 16, 64, 1024)
    found = [bound_of(name, model, guide, episode, particles=k) / copies for k in numbers]
    written = guide.write * toy_episodes().mean(1, keepdim=True)
    evidence = model.log_evidence(toy_episodes(), written).sum().item()
    assert all(few < many for few, many in pairwise(found))
    assert found[0] < evidence - 0.5
    assert found[-1] == pytest.approx(evidence, abs=5e-3)


@deterministic_or_random
@pytest.mark.parametrize(("name", "alpha"), [("iwae", 0.0), ("renyi", 1.0), ("renyi", 2.0)])
def test_with_the_exact_posterior_every_bound_is_the_evidence(name, alpha, random):
    program, episode = LinearProgram(random), linear_episodes()
    objective = make_objective(name, particles=3, alpha=alpha)
    bound = -objective.differentiable_loss(program.model, program.guide, episode)
    memory = None if random else (episode.flatten(2) @ program.B).mean(1, keepdim=True)
    torch.testing.assert_close(bound, program.log_evidence(episode, memory).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("alpha", [-0.5, 0.5, 0.9, 2.0])
def test_renyis_bound_is_that_of_the_divergence_by_quadrature(alpha):
    (model, guide), episode, copies = exact_toy(), toy_episodes(), 50
    guide.at.data += 0.2
    guide.scale.data -= 0.1
    memory, z = guide.write * episode.mean(1, keepdim=True), torch.linspace(-9, 9, 4001, dtype=torch.float64)
    z = z.view(-1, 1, 1)
    joint = dist.Normal(memory + model.shift, model.scale.exp()).log_prob(z)
    joint = joint + dist.Normal(z, model.noise_scale.exp()).log_prob(episode)
    posterior = guide.latent_posterior(episode, memory).log_prob(z)
    integrand = ((1 - alpha) * joint + alpha * posterior).exp()
    expected = (torch.trapezoid(integrand, z, dim=0).log() / (1 - alpha)).sum().item()
    found = bound_of("renyi", model, guide, toy_episodes(copies), particles=4096, alpha=alpha) / copies
    assert found == pytest.approx(expected, abs=5e-3)


def test_renyis_bound_falls_from_the_importance_weighted_one_to_the_elbo_and_on():
    (model, guide), episode = toy(), toy_episodes()
    alphas = (-30.0, -1.0, 0.0, 0.5, 1 - 1e-7, 1.0, 1 + 1e-7, 2.0, 30.0)
    found = [bound_of("renyi", model, guide, episode, particles=5, alpha=alpha) for alpha in alphas]
    assert all(more > less for more, less in pairwise(found))
    assert found[2] == bound_of("iwae", model, guide, episode, particles=5)
    assert found[4] == pytest.approx(found[5], abs=1e-5) == found[6]
    limits = [bound_of("renyi", model, guide, episode, particles=5, alpha=alpha) for alpha in (-1e6, 1e6)]
    assert limits[0] > found[0] and limits[1] < found[-1]  # the largest and the smallest weight


# Gradients


@deterministic_or_random
@pytest.mark.parametrize(("name", "alpha"), [("iwae", 0.0), ("renyi", 0.5), ("renyi", 1.0), ("renyi", 2.0)])
def test_gradients_are_finite_differences_of_the_same_draws(name, alpha, random):
    (model, guide), episode, step = toy(random), toy_episodes(), 1e-5
    gradients = gradients_of(name, model, guide, episode, WEIGHTS, particles=3, alpha=alpha)
    assert len(gradients) == 12 + random  # all, but for the deviation of a memory that has none
    for key, gradient in gradients.items():
        part, parameter = key.split(".")
        place, ends = getattr(model if part == "model" else guide, parameter), []
        for moved in (step, -2 * step):
            place.data += moved
            ends.append(bound_of(name, model, guide, episode, WEIGHTS, particles=3, alpha=alpha))
        place.data += step
        assert -gradient.item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-7), key


@deterministic_or_random
@pytest.mark.parametrize(("name", "alpha"), [("iwae", 0.0), ("renyi", 0.5), ("renyi", 1.0)])
def test_one_particle_is_trace_elbo_in_value_and_gradient(name, alpha, random):
    (model, guide), episode = toy(random), toy_episodes()
    with pyro.validation_enabled(False):
        loss = loss_of(name, model, guide, episode, WEIGHTS, alpha=alpha)
        torch.testing.assert_close(loss, loss_of("trace", model, guide, episode, WEIGHTS))
        own = gradients_of(name, model, guide, episode, WEIGHTS, alpha=alpha)
        theirs = gradients_of("trace", model, guide, episode, WEIGHTS)
    torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize(("weights", "random"), [({}, False), (WEIGHTS, True)], ids=["plain", "weighted and random"])
def test_the_doubly_reparametrised_gradient_has_the_expectation_of_the_plain_one(weights, random):
    (model, guide), copies, batches = toy(random), 400, 50
    episode, found = toy_episodes(copies), {}
    with pyro.validation_enabled(False):
        for name, first in (("iwae", 0), ("dreg", 1000)):
            runs = [
                gradients_of(name, model, guide, episode, weights, first + run, particles=4) for run in range(batches)
            ]
            found[name] = {key: torch.stack([run[key] for run in runs]) / copies for key in runs[0]}
    assert len(found["iwae"]) == 12 + random
    for key, plain in found["iwae"].items():
        doubly = found["dreg"][key]
        error = ((plain.var() + doubly.var()) / batches).sqrt()
        assert (plain.mean() - doubly.mean()).abs() < 4 * error, key
        if key.removeprefix("guide.") in OFF:
            assert doubly.var() < plain.var(), key


def test_doubly_reparametrised_with_one_particle_is_the_derivative_of_the_path():
    (model, guide), episode = toy(), toy_episodes()
    gradients = gradients_of("dreg", model, guide, episode)
    torch.manual_seed(5)
    with poutine.trace() as trace, torch.no_grad():
        guide(episode)
    memory, y, z = (trace.trace.nodes[site]["value"] for site in ("memory", "key", "latent"))
    with torch.no_grad():
        prior, noise, scale, key_scale = (
            (2 * s).exp() for s in (model.scale, model.noise_scale, guide.scale, guide.key_scale)
        )
        left = (z - memory - model.shift - model.turn * y) / prior  # minus the derivative of ln p(z|M,y) by z
        z_minus = z - (guide.at + guide.slope * episode + guide.follow * memory)
        y_minus = y - (guide.key_at + guide.key_slope * episode)
        by_z = -left + (episode - z) / noise + z_minus / scale  # of ln w
        by_y = -y + model.turn * left + y_minus / key_scale
        by_memory = left + guide.follow * by_z  # as a parameter of the model, and where the latent is
        expected = {
            "at": by_z,
            "slope": by_z * episode,
            "follow": by_z * memory,
            "scale": by_z * z_minus,
            "key_at": by_y,
            "key_slope": by_y * episode,
            "key_scale": by_y * y_minus,
            "write": by_memory * episode.mean(1, keepdim=True),
        }
    for name, value in expected.items():
        torch.testing.assert_close(-gradients[f"guide.{name}"], value.sum())
    torch.testing.assert_close(-gradients["model.shift"], left.sum())


def test_at_the_exact_posterior_the_doubly_reparametrised_gradient_of_the_posterior_is_zero():
    (model, guide), episode = exact_toy(), toy_episodes()
    doubly, plain = (gradients_of(name, model, guide, episode, particles=7) for name in ("dreg", "iwae"))
    posterior = [f"guide.{name}" for name in OFF]
    assert max(doubly[name].abs() for name in posterior) < 1e-12
    assert min(plain[name].abs() for name in posterior) > 1e-3
    assert doubly["guide.write"].abs() > 1e-3
    torch.testing.assert_close(doubly["model.scale"], plain["model.scale"])


def test_the_gradient_does_not_go_round_a_draw_that_a_transform_remembers():
    (model, guide), episode = toy(), toy_episodes()
    with pyro.validation_enabled(False):  # which looks at densities of its own, and makes transforms forget
        expected = gradients_of("dreg", model, guide, episode, particles=3)
        guide.transformed = True
        torch.testing.assert_close(gradients_of("dreg", model, guide, episode, particles=3), expected)


# Programs


@pytest.mark.parametrize("name", ["iwae", "dreg", "renyi"])
@pytest.mark.parametrize(("write", "reads"), [("allocate", 1), ("feed_forward", 1), ("feed_forward", 2)])
def test_every_parameter_of_a_program_gets_a_gradient_without_waiting_for_the_device(name, write, reads):
    program, episode = small_pair(write, reads=reads), random_episodes()
    pair = make_objective(name, particles=3, alpha=0.5 if name == "renyi" else 0.0)(program.model, program.guide)
    assert pair(episode).isfinite()
    weights = {"key": torch.tensor(0.3), "latent": torch.tensor(0.1)}
    with pyro.validation_enabled(False), NoWaiting():
        annealed(pair)(episode, weights).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in pair.parameters())


@pytest.mark.parametrize("write", WRITES)
def test_one_particle_of_a_program_is_trace_elbo_and_more_are_better(write):
    program, episode = small_pair(write), random_episodes()
    torch.manual_seed(5)
    expected = Trace_ELBO(max_plate_nesting=PLATE_NESTING)(program.model, program.guide)(episode)
    torch.testing.assert_close(loss_of("iwae", program.model, program.guide, episode), expected)
    torch.testing.assert_close(loss_of("dreg", program.model, program.guide, episode), expected)
    means = [
        sum(bound_of("iwae", program.model, program.guide, episode, seed=seed, particles=k) for seed in range(10))
        for k in (1, 5, 25)
    ]
    assert means[0] < means[1] < means[2]


def test_encoder_and_write_run_once_whatever_the_number_of_particles():
    program, episode, seen = small_pair("feed_forward"), random_episodes(), {}
    for name, module in (("encoder", program.guide.encoder), ("write", program.guide.write.to_claim)):
        module.register_forward_hook(lambda _, given, made, name=name: seen.setdefault(name, []).append(made.shape))
    loss_of("iwae", program.model, program.guide, episode, particles=9)
    assert all(len(shapes) == 1 and shapes[0][:2] == episode.shape[:2] for shapes in seen.values()) and len(seen) == 2


# Refusals


class Chosen(ToyGuide):
    def latent_posterior(self, episode, memory):
        return dist.Poisson((self.at + self.slope * episode).exp())


class Chained(ToyGuide):
    def latent_posterior(self, episode, memory):
        key = pyro.sample("key", dist.Normal(self.key_at, self.key_scale.exp()))
        return dist.Normal(self.at + key, self.scale.exp())

    def forward(self, episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            memory = pyro.sample("memory", dist.Delta(self.write * episode.mean(1, keepdim=True)))
            with pyro.plate("images", episode.shape[1], dim=-1):
                pyro.sample("latent", self.latent_posterior(episode, memory))


@pytest.mark.parametrize("name", ["iwae", "dreg", "renyi"])
def test_draws_that_carry_no_gradient_are_refused(name):
    with pytest.raises(InputError, match=r"expected reparametrised draws at latent, found Poisson"):
        loss_of(name, ToyModel(), Chosen(), toy_episodes())


def test_draws_that_depend_on_one_another_are_refused_where_the_gradient_would_be_wrong():
    model, guide = ToyModel(), Chained()
    assert loss_of("iwae", model, guide, toy_episodes(), particles=2).isfinite()
    with pytest.raises(InputError, match="found some that depend on key"):
        loss_of("dreg", model, guide, toy_episodes(), particles=2)
    guide.latent_sees_read = True
    with pytest.raises(InputError, match=r"found q\(z \| x, M, y\)"):
        make_objective("dreg")(model, guide)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("iwae", {"particles": 0}, "particles: expected at least 1, found 0"),
        ("renyi", {"alpha": math.inf}, "alpha: expected a finite number, found inf"),
        ("trace", {"particles": 2}, "particles: expected 1 with trace, found 2"),
        ("dreg", {"alpha": 0.5}, "alpha: expected 0 with dreg, found 0.5"),
    ],
)
def test_what_an_objective_cannot_use_is_refused(name, options, sentence):
    with pytest.raises(InputError, match=sentence):
        make_objective(name, **options)
