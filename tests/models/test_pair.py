"""A pair is one module: what its copy does is its own."""

from __future__ import annotations

import copy

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from inference import Config, build
from inference.tracing import elbo_terms, site_value, written_memory
from inference.trained_memory import TrainedMemory
from kpp_pyro.likelihoods import LIKELIHOODS
from kpp_pyro.likelihoods.bernoulli import BernoulliImage, BernoulliLikelihood
from models.pair import Pair
from models.registry import MODELS
from tests.programs import WRITES, random_episodes, small_pair

SOLVED = {"memory_rows": 4, "latent_size": 5}
RIVAL = {"model": "kanerva_machine", "key_size": 3, **SOLVED}
KINDS = {
    "allocate": {},
    "vamp": {"write": "feed_forward", "key_prior": "vamp"},
    "kanerva_machine": RIVAL,
    "content_steps": {"content_steps": 3},
    "encoder_steps": {"encoder_steps": 2},
}
WRITERS = [
    *({"write": write} for write in WRITES),
    RIVAL,
    *({**SOLVED, "model": model} for model in ("dynamic_kanerva_machine", "pseudo_inverse_memory")),
]
every_kind = pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)


def _name(changes: dict[str, object]) -> str:
    return str(changes.get("model") or changes["write"])


def elbo(pair: Pair) -> torch.Tensor:
    """Of images read back, and of cues."""
    torch.manual_seed(4)
    episode, cues = random_episodes(), random_episodes(seed=5)
    own = elbo_terms(pair.model, pair.guide, episode).elbo
    return torch.cat([own, elbo_terms(pair.model, pair.guide, cues, pair.guide.write_memory(episode, 1)).elbo])


@every_kind
@pytest.mark.parametrize("training", [True, False])
def test_a_copy_is_independent(changes, training):
    pair = small_pair(**changes).train(training)
    before = elbo(pair)
    copied = copy.deepcopy(pair)
    assert torch.equal(elbo(copied), before)
    assert not {id(p) for p in pair.parameters()} & {id(p) for p in copied.parameters()}
    assert not {id(m) for m in pair.modules()} & {id(m) for m in copied.modules()}
    assert len(list(copied.parameters())) == len(list(pair.parameters()))
    assert {pair.model._pyro_name, pair.guide._pyro_name}.isdisjoint({copied.model._pyro_name, copied.guide._pyro_name})
    fresh = small_pair(**changes).train(training)  # to have the same state, without having been copied
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            value = parameter.clone()
            parameter.add_(0.1 * torch.randn_like(parameter))
            changed = elbo(copied)
            assert torch.equal(elbo(pair), before), name
            fresh.load_state_dict(copied.state_dict())
            assert torch.equal(elbo(fresh), changed), name
            parameter.copy_(value)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("changes", WRITERS, ids=_name)
def test_writing_is_what_the_guide_does_first_and_draws_neither_keys_nor_latents(changes, training, monkeypatch):
    pair, episode = small_pair(**changes).train(training), random_episodes()
    torch.manual_seed(3)
    expected = site_value(poutine.trace(pair.guide).get_trace(episode), "memory").detach()
    monkeypatch.setattr(pair.guide, "latent_posterior", lambda *_: pytest.fail("latents were looked for"))
    monkeypatch.setattr(pyro, "sample", lambda *_, **__: pytest.fail("something was drawn at a site"))
    torch.manual_seed(3)
    memory = pair.guide.write_memory(episode)
    assert torch.equal(memory, expected) and not memory.requires_grad
    torch.manual_seed(4)
    state = torch.get_rng_state()
    assert torch.equal(pair.guide.write_memory(episode, seed=3), expected)
    assert torch.equal(written_memory(pair.guide, episode, seed=3), expected)
    held = TrainedMemory(pair.model, pair.guide)
    assert torch.equal(held.write(episode, seed=3).value, expected.squeeze(1))
    assert torch.equal(held.write(episode).value, pair.guide.write_memory(episode, seed=0).squeeze(1))
    assert torch.equal(torch.get_rng_state(), state)
    random = "model" in changes
    assert torch.equal(pair.guide.write_memory(episode, seed=8), expected) != random
    pair.guide.write_memory(episode)
    assert torch.equal(torch.get_rng_state(), state) != random


@every_kind
def test_every_parameter_is_there_once_and_every_module_where_it_belongs(changes):
    pair = small_pair(**changes)
    model, guide = pair.model, pair.guide
    shared = {id(module) for module in model.modules()} & {id(module) for module in guide.modules()}
    expected = {id(module) for module in model.linear.modules()} if hasattr(model, "linear") else set()
    assert shared == expected
    assert not any(isinstance(part, nn.Module) for part in (*vars(model).values(), *vars(guide).values()))
    assert pair.sizes()["parameters"] == sum(p.numel() for p in {id(p): p for p in pair.parameters()}.values())
    assert pair.state_dict().keys() == {
        *(f"model.{name}" for name in model.state_dict()),
        *(f"guide.{name}" for name in guide.state_dict()),
    }


class Doubled(BernoulliLikelihood):
    """Bernoulli with logits twice as large."""

    def _distribution(self, outputs, image_channels):
        return BernoulliImage(2 * outputs)


def test_the_likelihood_is_the_one_of_the_configuration(monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, "doubled", Doubled())
    for model in MODELS:
        config = Config.preset(model=model, width=16, precision="float32")
        names = ("bernoulli", "doubled")
        standard, doubled = (build(config.replace(likelihood=name), (1, 16, 16)).model for name in names)
        latent = torch.randn(2, 3, 100)
        expected = 2 * standard.image_likelihood(latent).base_dist.logits
        torch.testing.assert_close(doubled.image_likelihood(latent).base_dist.logits, expected)
