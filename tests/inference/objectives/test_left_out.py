"""The loss of episodes whose last images are left out of the memory: what it is made of, and who learns from it."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine

from inference.objectives import make_objective
from inference.objectives.left_out import WithLeftOut
from inference.runs.build_trainer import build_trainer
from inference.runs.config import Config
from inference.runs.data import build_episodes
from inference.runs.trainer import ScaleSites, TrainingPlan, annealed
from inference.tracing import amortized, elbo_terms, site_value, written_memory
from tests.inference.runs.test_trainer import OneEpisode
from tests.programs import random_episodes, small_config, small_pair

LEFT_OUT, WRITTEN = 2, 4
CHANGES = {"semantic_reads": 0.25, "left_out": LEFT_OUT, "episode_length": WRITTEN}
OBJECTIVES = {"trace": {}, "mean_field": {}, "iwae": {"particles": 3}, "renyi": {"particles": 2, "alpha": 0.5}}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)


def left_out_program(write="allocate", **changes):
    return small_pair(write, **{**CHANGES, **changes})


def pair_of(program, objective="trace"):
    return make_objective(objective, **OBJECTIVES[objective])(program.model, program.guide)


def loss_of(program, episode, objective="trace", seed=5):
    """The loss of the draws of a seed, and what has gradients by it."""
    torch.manual_seed(seed)
    return WithLeftOut(pair_of(program, objective), LEFT_OUT)(episode)


def frozen_choices(program, monkeypatch):
    """Have cues choose blocks as they do now, whatever the parameters will be: choices carry no gradient."""
    guide, kept = program.guide, {}
    choose = guide.key_posterior

    def once(encoding, memory=None):
        if memory is None:
            return choose(encoding)
        kept.setdefault("posterior", choose(encoding, memory))
        return kept["posterior"]

    monkeypatch.setattr(guide, "key_posterior", once)


@every_objective
def test_the_loss_is_that_of_the_written_images_and_that_of_cues_of_their_memory(objective):
    program, episode = left_out_program(), random_episodes()
    found = loss_of(program, episode, objective)
    written, cues = episode[:, :WRITTEN], episode[:, WRITTEN:]
    torch.manual_seed(5)
    posterior = amortized(program.guide, written)
    memory = site_value(poutine.trace(posterior).get_trace(written), "memory")
    of_cues = pair_of(program, objective)(cues, memory)
    of_written = pair_of(program, objective)(written)
    torch.testing.assert_close(found, of_written + of_cues, rtol=1e-12, atol=1e-9)


@torch.no_grad()
def test_on_average_it_is_minus_the_elbo_of_every_image_whatever_the_draws():
    program, episode, draws = left_out_program(), random_episodes(1), 400
    many = episode.expand(draws, *episode.shape[1:])
    loss = loss_of(program, many, "mean_field") / draws
    written, cues = many[:, :WRITTEN], many[:, WRITTEN:]
    memory = program.guide.write(program.guide.encode(written))
    parts = elbo_terms(program.model, program.guide, written), elbo_terms(program.model, program.guide, cues, memory)
    assert [part.elbo.shape[1] for part in parts] == [WRITTEN, LEFT_OUT]
    elbos = sum(part.elbo.sum(1) for part in parts)  # of which closed KLs, in the loss, vary less
    assert abs(loss + elbos.mean()) < 4 * elbos.std() * (2 / draws) ** 0.5


@every_objective
def test_kl_weights_scale_the_terms_of_both(objective):
    program, episode = left_out_program(), random_episodes()
    weights = {"key": 0.3, "latent": 0.7}
    torch.manual_seed(5)
    found = annealed(WithLeftOut(pair_of(program, objective), LEFT_OUT))(episode, weights)
    with ScaleSites(weights):
        expected = loss_of(program, episode, objective)
    torch.testing.assert_close(found, expected)
    assert found < loss_of(program, episode, objective)


def test_what_is_left_out_is_not_written():
    program, episode = left_out_program(), random_episodes()
    memories, guide = [], program.guide
    write, read = guide.memory_posterior, guide.key_posterior

    def writing(encoding):
        assert encoding.images == WRITTEN
        memories.append(write(encoding).mean)
        return write(encoding)

    def reading(encoding, memory=None):
        if memory is not None:
            assert encoding.images == LEFT_OUT
            torch.testing.assert_close(memory, memories[-1])
        return read(encoding, memory)

    guide.memory_posterior, guide.key_posterior = writing, reading
    others = torch.cat([episode[:, :WRITTEN], 1 - episode[:, WRITTEN:]], 1)
    for given in (episode, others):
        loss_of(program, given)
    assert len(memories) == 2  # written once for each, and read by both kinds
    assert torch.equal(*memories)


def test_each_episode_s_cues_read_the_memory_of_their_own_episode():
    program, episode = left_out_program(), random_episodes(3)
    order = torch.tensor([2, 0, 1])
    losses = [
        torch.stack([loss_of(program, given[b : b + 1], seed=b) for b in range(3)])
        for given in (episode, episode[order])
    ]
    assert not torch.isclose(*losses).any()
    mixed = torch.cat([episode[:, :WRITTEN], episode[order, WRITTEN:]], 1)
    assert not torch.isclose(loss_of(program, episode), loss_of(program, mixed))


@pytest.mark.parametrize(
    ("objective", "write", "signs"),
    [
        ("trace", "allocate", None),
        ("mean_field", "allocate_by_content", 4),
        ("iwae", "allocate", 4),
        ("renyi", "allocate_by_content", None),
    ],
)
def test_every_parameter_receives_a_gradient(objective, write, signs):
    program = left_out_program(write, signs_per_scalar=signs)
    loss = WithLeftOut(pair_of(program, objective), LEFT_OUT)
    loss(random_episodes()).backward()
    without = [name for name, p in loss.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-9]
    assert without == []


def test_contents_learn_from_those_who_read_them_without_being_written():
    program, episode = left_out_program(), random_episodes()
    encoding = program.guide.encode(episode[:, :WRITTEN])
    memory = program.guide.write(encoding)
    cues = episode[:, WRITTEN:].repeat(1, 60, 1, 1, 1)  # so that some of them read every block
    (found,) = torch.autograd.grad(pair_of(program)(cues, memory), encoding.latent_loc)
    assert (found.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("objective", ["trace", "mean_field"])
def test_gradients_are_finite_differences_also_through_the_memory(objective, monkeypatch):
    program, episode = left_out_program(), random_episodes(2)
    frozen_choices(program, monkeypatch)
    loss = loss_of(program, episode, objective)
    model, write = program.model, program.guide.write
    parameters = {
        "contents": write.to_content.get_parameter("network.linear.bias"),
        "latents of left-out images": write.to_semantic.get_parameter("network.linear.bias"),
        "what contents say of others": model.reading.get_parameter("network.head.weight"),
        "encoder": next(program.guide.encoder.parameters()),
    }
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    step = 1e-5
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        place = gradient.abs().argmax()
        flat = parameter.data.view(-1)
        before, losses = flat[place].item(), []
        for side in (step, -step):
            flat[place] = before + side
            losses.append(loss_of(program, episode, objective))
        flat[place] = before
        difference = (losses[0] - losses[1]) / (2 * step)
        torch.testing.assert_close(gradient.view(-1)[place], difference.detach(), rtol=1e-5, atol=1e-6, msg=name)


# Training


def left_out_trainer(episode=None, **changes):
    changes = {**CHANGES, "steps": 100, "warmup_steps": 4, "episodes_per_step": 2, "learning_rate": 3e-3, **changes}
    program = small_pair(**changes)
    program.model.float(), program.guide.float()
    torch.manual_seed(0)
    return build_trainer(small_config(**changes), program, OneEpisode(random_episodes(2).float()))


def test_a_plan_leaves_nothing_out_unless_asked_to():
    assert TrainingPlan(1, 1, 1.0, 0).left_out == 0
    assert left_out_trainer().plan.left_out == LEFT_OUT


def test_the_loss_of_a_step_is_of_all_images_written_or_not():
    trainer = left_out_trainer(kl_key_start=0.5, kl_begin_step=3)
    noise = torch.get_rng_state()
    with ScaleSites(trainer.kl_weights(0)):
        pair = make_objective("trace")(trainer.pair.model, trainer.pair.guide)
        expected = WithLeftOut(pair, LEFT_OUT)(random_episodes(2).float()) / (2 * (WRITTEN + LEFT_OUT))
    torch.set_rng_state(noise)
    torch.testing.assert_close(trainer.train_step().loss, expected.detach())


def test_training_lowers_the_loss_of_the_written_and_of_the_left_out():
    trainer = left_out_trainer(write="allocate_by_content", objective="mean_field", learning_rate=1e-2)
    episode = random_episodes(2).float()
    written, cues = episode[:, :WRITTEN], episode[:, WRITTEN:]

    def elbos():
        memory = written_memory(trainer.pair.guide, written)
        return [
            elbo_terms(trainer.pair.model, trainer.pair.guide, *given).elbo.mean().item()
            for given in ((written,), (cues, memory))
        ]

    before = elbos()
    losses = [trainer.train_step().loss.item() for _ in range(40)]
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 50
    for start, end in zip(before, elbos(), strict=True):
        assert end > start + 50


def test_episodes_to_learn_from_hold_the_images_left_out_too_and_held_out_ones_do_not():
    settings = {"device": "cpu", "episode_length": 5}
    for left_out in (0, 3):
        config = Config().replace(**settings, left_out=left_out, semantic_reads=0.25 if left_out else 0.0)
        episodes = build_episodes(config, torch.device("cpu"))
        drawn = episodes.train.render(episodes.train.draw(2))
        assert drawn.shape[:2] == (2, 5 + left_out)
        for held_out in (episodes.validation, episodes.test):
            episode, counted = next(held_out.batches(2))
            assert episode.shape[:2] == counted.shape == (2, 5)
