from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule

from inference.objectives import make_objective
from inference.runs.trainer import KLSchedule, ScaleSites
from inference.tracing import PLATE_NESTING, elbo_terms
from kpp_pyro.fast_pyro import TensorTrace_ELBO
from models.by_hand import elbo_by_hand
from tests.programs import WRITES, random_episodes, small_pair


def test_schedule_is_flat_then_linear_then_one():
    schedule = KLSchedule(start=0.2, begin_step=10, ramp_steps=4)
    assert [schedule.weight(step) for step in (0, 9, 10, 12, 14, 1000)] == pytest.approx([0.2, 0.2, 0.2, 0.6, 1, 1])
    assert KLSchedule().weight(0) == 1
    assert KLSchedule(start=0.0, begin_step=3).weight(3) == 1


@pytest.mark.parametrize("write", WRITES)
def test_scaled_sites_weigh_each_kl_of_the_sampled_elbo(write):
    program, episode = small_pair(write), random_episodes()
    torch.manual_seed(5)
    terms = elbo_terms(program.model, program.guide, episode)
    torch.manual_seed(5)
    with ScaleSites({"key": 0.3, "latent": 0.7}):
        loss = make_objective("trace")(program.model, program.guide)(episode)
    expected = terms.reconstruction - 0.3 * terms.kl["key"] - 0.7 * terms.kl["latent"]
    torch.testing.assert_close(-loss, expected.sum(), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("write", WRITES)
def test_the_mean_field_objective_scales_a_kl_once(write):
    program, episode = small_pair(write), random_episodes()

    def loss(weight: float) -> torch.Tensor:
        torch.manual_seed(5)
        with ScaleSites({"key": weight, "latent": 1.0}), torch.no_grad():
            return make_objective("mean_field")(program.model, program.guide)(episode)

    none, half, full = loss(0.0), loss(0.5), loss(1.0)
    assert full > none
    torch.testing.assert_close(half, (none + full) / 2, rtol=1e-12, atol=1e-9)


def test_scaling_leaves_other_sites_alone():
    program, episode = small_pair(), random_episodes()
    with ScaleSites({"key": 0.25}):
        trace = poutine.trace(program.guide).get_trace(episode)
    assert {n: trace.nodes[n]["scale"] for n in ("memory", "key", "latent")} == {"memory": 1, "key": 0.25, "latent": 1}


def test_objectives_by_name():
    assert type(make_objective("trace")) is TensorTrace_ELBO
    assert type(make_objective("mean_field")) is TraceMeanField_ELBO


CASES = [("allocate", 2), ("feed_forward", 1), ("feed_forward", 2), ("feed_forward", 3)]


def value_and_gradients(objective, model, guide, *arguments):
    """Loss and gradients of the same draw, without validation, as in all but the first step."""
    torch.manual_seed(5)
    module = objective(model, guide)
    with pyro.validation_enabled(False), ScaleSites({"key": 0.3, "latent": 0.7}):
        loss = module(*arguments)
    return loss, torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)


@pytest.mark.parametrize(("write", "reads"), CASES)
def test_the_elbo_of_tensors_is_trace_elbo_in_value_and_gradient(write, reads):
    program, episode = small_pair(write, reads=reads), random_episodes()
    loss, gradients = value_and_gradients(make_objective("trace"), program.model, program.guide, episode)
    expected, theirs = value_and_gradients(
        Trace_ELBO(max_plate_nesting=PLATE_NESTING), program.model, program.guide, episode
    )
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-10)
    for own, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("write", "reads"), CASES)
def test_the_program_is_the_elbo_written_by_hand_in_value_and_gradient(write, reads):
    program, episode = small_pair(write, reads=reads), random_episodes()
    loss, gradients = value_and_gradients(make_objective("trace"), program.model, program.guide, episode)
    torch.manual_seed(5)
    by_hand = -elbo_by_hand(program.model, program.guide, episode, {"key": 0.3, "latent": 0.7})
    parameters = (*program.model.parameters(), *program.guide.parameters())
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=1e-9)
    for own, other in zip(gradients, torch.autograd.grad(by_hand, parameters, allow_unused=True), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


class Switch(PyroModule):
    """x ~ N(+-1, 1) by a fair switch in each of two plates; a draw of the switch carries no gradient."""

    def forward(self, data):
        with pyro.plate("episodes", data.shape[0], dim=-2), pyro.plate("images", data.shape[1], dim=-1):
            switch = pyro.sample("switch", dist.Bernoulli(torch.full(data.shape, 0.5, dtype=torch.float64)))
            pyro.sample("image", dist.Normal(2 * switch - 1, 1.0), obs=data)


class SwitchGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.logit = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, data):
        with pyro.plate("episodes", data.shape[0], dim=-2), pyro.plate("images", data.shape[1], dim=-1):
            pyro.sample("switch", dist.Bernoulli(logits=self.logit * data))


def test_draws_that_carry_no_gradient_get_the_score_function_of_trace_elbo():
    data = torch.randn(3, 4, dtype=torch.float64)
    model, guide, objective = Switch(), SwitchGuide(), make_objective("trace")
    value_and_gradients(objective, model, guide, data)  # finds out, and draws again
    loss, (gradient,) = value_and_gradients(objective, model, guide, data)
    expected, (theirs,) = value_and_gradients(Trace_ELBO(max_plate_nesting=PLATE_NESTING), model, guide, data)
    assert gradient != 0
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, theirs)


@pytest.mark.parametrize("point", [1.0, 2.0])
def test_a_point_of_the_model_is_compared_with_the_guides(point):
    class Model(PyroModule):
        def forward(self, data):
            with pyro.plate("images", len(data), dim=-1):
                place = pyro.sample("place", dist.Delta(torch.full((len(data),), 1.0)))
                pyro.sample("image", dist.Normal(place, 1.0), obs=data)

    class Guide(PyroModule):
        def forward(self, data):
            with pyro.plate("images", len(data), dim=-1):
                pyro.sample("place", dist.Delta(torch.full((len(data),), point), log_density=torch.tensor(0.25)))

    data = torch.randn(4)
    with pyro.validation_enabled(False):
        loss, expected = (kind(max_plate_nesting=1)(Model(), Guide())(data) for kind in (TensorTrace_ELBO, Trace_ELBO))
    assert loss.isfinite() == expected.isfinite() == (point == 1)
    if point == 1:
        torch.testing.assert_close(loss, expected)


def test_several_particles_are_averaged_as_by_trace_elbo():
    program, episode = small_pair(), random_episodes()
    results = [
        value_and_gradients(kind(num_particles=3, max_plate_nesting=PLATE_NESTING), *program.children(), episode)
        for kind in (TensorTrace_ELBO, Trace_ELBO)
    ]
    torch.testing.assert_close(*results)
