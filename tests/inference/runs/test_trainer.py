from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from inference.errors import DivergenceError
from inference.objectives import make_objective
from inference.processes import Processes
from inference.runs.build_trainer import build_trainer
from inference.runs.trainer import KLSchedule, Trainer, TrainingPlan
from inference.tracing import elbo_terms
from kpp_pyro.data import EpisodeSampler, LabelledImages
from kpp_pyro.errors import InputError
from tests.programs import WRITES, random_episodes, small_config, small_pair


class OneEpisode:
    """The same episode at every step."""

    def __init__(self, episode: torch.Tensor) -> None:
        self.episode = episode

    generators = ()

    def draw(self, num_episodes: int) -> torch.Tensor:
        return self.episode

    def render(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        pass


def sampler(seed: int = 0) -> EpisodeSampler:
    grey = (torch.rand(40, 1, 16, 16) * 255).to(torch.uint8)
    return EpisodeSampler(LabelledImages(grey, torch.zeros(40, dtype=torch.long)), 6, "dynamic", seed)


def make_trainer(write: str, episodes=None, **changes: object) -> Trainer:
    changes = {"steps": 20, "warmup_steps": 4, "episodes_per_step": 2, **changes}
    pair = small_pair(write)
    pair.model.float(), pair.guide.float()
    torch.manual_seed(0)
    return build_trainer(small_config(write, **changes), pair, episodes or sampler())


def state_of(trainer: Trainer) -> list[torch.Tensor]:
    return list(trainer.pair.state_dict().values())


def test_learning_rate_warms_up_linearly_then_falls_by_a_cosine():
    plan = TrainingPlan(steps=110, episodes_per_step=1, learning_rate=2.0, warmup_steps=10)
    assert [plan.learning_rate_at(s) for s in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert plan.learning_rate_at(10) == pytest.approx(2.0)
    assert plan.learning_rate_at(60) == pytest.approx(1.0)
    assert plan.learning_rate_at(35) == pytest.approx(1 + math.cos(math.pi / 4))
    assert plan.learning_rate_at(110) == pytest.approx(0.0)


@pytest.mark.parametrize(("write", "bypass"), [*((write, 0.0) for write in WRITES), ("allocate", 1.0)])
def test_twenty_steps_equal_ten_plus_ten_resumed_bit_for_bit(write, bypass):
    straight = make_trainer(write, bypass_weight=bypass)
    for _ in range(20):
        straight.train_step()
    first = make_trainer(write, bypass_weight=bypass)
    for _ in range(10):
        first.train_step()
    state = first.state_dict()
    torch.manual_seed(99)  # a new process
    second = make_trainer(write, sampler(seed=5), bypass_weight=bypass)
    second.episodes._images = first.episodes._images
    second.load_state_dict(state)
    for _ in range(10):
        second.train_step()
    straight_state, resumed_state = state_of(straight), state_of(second)
    assert all(torch.equal(a, b) for a, b in zip(straight_state, resumed_state, strict=True))
    assert second.step == 20


@pytest.mark.parametrize("write", WRITES)
def test_a_single_episode_can_be_overfitted(write):
    episode = random_episodes(1, 6).float()
    schedules = {"kl_key_start": 0.0, "kl_begin_step": 200, "kl_ramp_steps": 100}
    trainer = make_trainer(
        write,
        OneEpisode(episode),
        steps=500,
        width=64,
        learning_rate=3e-3,
        **({} if write == "allocate" else schedules),
    )
    before = elbo_terms(trainer.pair.model, trainer.pair.guide, episode).elbo.mean()
    for _ in range(500):
        trainer.train_step()
    after = elbo_terms(trainer.pair.model, trainer.pair.guide, episode)
    assert before < -150  # 256 coin flips are 177 nats
    assert after.elbo.mean() > -30
    assert after.reconstruction.mean() > -15


def test_clipping_bounds_the_gradient_of_the_loss_per_image():
    trainer = make_trainer("allocate", learning_rate=1.0, warmup_steps=0)
    plan = dataclasses.replace(trainer.plan, gradient_norm=1e-3)
    trainer = Trainer(trainer.pair, make_objective("trace"), trainer.episodes, plan)
    trainer.train_step()
    norm = torch.cat([p.grad.flatten() for p in trainer.parameters]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_the_loss_is_per_image():
    episode = random_episodes(2, 6).float()
    one, two = (make_trainer("allocate", OneEpisode(e)) for e in (episode, torch.cat([episode] * 3)))
    assert (
        abs(one.train_step().loss - two.train_step().loss) < 10
    )  # same images, other noise: three times as many do not make three times the loss


def test_the_annealed_elbo_uses_this_steps_weights():
    episode = random_episodes(2, 6).float()
    trainer = make_trainer("allocate", OneEpisode(episode), kl_latent_start=0.25, kl_begin_step=3)
    rng = torch.get_rng_state()
    terms = elbo_terms(trainer.pair.model, trainer.pair.guide, episode)
    torch.set_rng_state(rng)
    quantities = trainer.quantities(trainer.train_step())
    expected = terms.reconstruction - terms.kl["key"] - 0.25 * terms.kl["latent"]
    assert quantities["annealed_elbo_nats_per_image"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert quantities["kl_latent_weight"] == 0.25


@pytest.mark.parametrize("poisoned", ["decoder", "encoder"])
def test_a_nan_stops_the_run_and_names_the_step_and_the_terms(poisoned):
    trainer = make_trainer("allocate")
    for _ in range(2):
        trainer.train_step()
    network = getattr(trainer.pair.model if poisoned == "decoder" else trainer.pair.guide, poisoned)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    others = [p.clone() for p in trainer.parameters]
    with pytest.raises(
        DivergenceError, match=r"step 3: the loss is not finite .*reconstruction nan.*kl key.*kl latent"
    ):
        trainer.train_step()
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(others, trainer.parameters, strict=True))
    assert trainer.step == 2


def test_an_infinite_gradient_changes_no_parameter():
    trainer = make_trainer("allocate")
    trainer.train_step()
    next(trainer.pair.guide.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = state_of(trainer)
    before = [value.clone() for value in before]
    with pytest.raises(DivergenceError, match="step 2: the gradient of the loss"):
        trainer.train_step()
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(trainer), strict=True))


class TwoAsOne(Processes):
    """The first of two processes, of which the other has nothing to report."""

    def share(self, module):
        return module

    def gather(self, value):
        return [value, None]


def test_an_input_error_of_one_process_waits_until_all_look_for_one():
    trainer = make_trainer("allocate")
    trainer = Trainer(trainer.pair, make_objective("trace"), trainer.episodes, trainer.plan, processes=TwoAsOne(0, 2))
    trainer.train_step()

    def unreadable(num_episodes):
        raise InputError("pictures: expected fewer that cannot be read")

    trainer.episodes.draw = unreadable
    trainer.train_step()  # the others are in a step too, and none may be missing
    with pytest.raises(InputError, match="pictures: expected fewer"):
        trainer.state_dict()


def test_a_state_restores_the_plans_learning_rate_not_the_saved_one():
    first, second = make_trainer("allocate"), make_trainer("allocate", learning_rate=0.5)
    first.train_step()
    second.load_state_dict(first.state_dict())
    second.train_step()
    assert second.optimizer.param_groups[0]["lr"] == second.plan.learning_rate_at(1)


def test_an_objective_is_made_anew_for_each_pair():
    assert make_objective("trace") is not make_objective("trace")
    assert KLSchedule() == KLSchedule(1.0, 0, 0)
