from __future__ import annotations

import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO

from inference.evaluation import elbo_terms
from inference.objectives import KLSchedule, ScaleSites, TensorTrace_ELBO, make_objective
from tests.programs import WRITES, random_episodes, small_program


def test_schedule_is_flat_then_linear_then_one():
    schedule = KLSchedule(start=0.2, begin_step=10, ramp_steps=4)
    assert [schedule.weight(step) for step in (0, 9, 10, 12, 14, 1000)] == pytest.approx([0.2, 0.2, 0.2, 0.6, 1, 1])
    assert KLSchedule().weight(0) == 1
    assert KLSchedule(start=0.0, begin_step=3).weight(3) == 1


@pytest.mark.parametrize("write", WRITES)
def test_scaled_sites_weigh_each_kl_of_the_sampled_elbo(write):
    program, episode = small_program(write), random_episodes()
    torch.manual_seed(5)
    terms = elbo_terms(program.model, program.guide, episode)
    torch.manual_seed(5)
    with ScaleSites({"key": 0.3, "latent": 0.7}):
        loss = make_objective("trace")(program.model, program.guide)(episode)
    expected = terms.reconstruction - 0.3 * terms.kl["key"] - 0.7 * terms.kl["latent"]
    torch.testing.assert_close(-loss, expected.sum(), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("write", WRITES)
def test_the_mean_field_objective_scales_a_kl_once(write):
    program, episode = small_program(write), random_episodes()

    def loss(weight: float) -> torch.Tensor:
        torch.manual_seed(5)
        with ScaleSites({"key": weight, "latent": 1.0}), torch.no_grad():
            return make_objective("mean_field")(program.model, program.guide)(episode)

    none, half, full = loss(0.0), loss(0.5), loss(1.0)
    assert full > none
    torch.testing.assert_close(half, (none + full) / 2, rtol=1e-12, atol=1e-9)


def test_scaling_leaves_other_sites_alone():
    program, episode = small_program(), random_episodes()
    with ScaleSites({"key": 0.25}):
        trace = poutine.trace(program.guide).get_trace(episode)
    assert {n: trace.nodes[n]["scale"] for n in ("memory", "key", "latent")} == {"memory": 1, "key": 0.25, "latent": 1}


def test_objectives_by_name():
    assert type(make_objective("trace")) is TensorTrace_ELBO
    assert type(make_objective("mean_field")) is TraceMeanField_ELBO
