"""The loss of an autoencoder that bypasses the memory: its value, its gradient, and where it is not."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import softplus

from inference import Config, InputError
from inference.metrics.elbo import mean_elbo
from inference.objectives import OBJECTIVES, make_objective
from inference.objectives.bypass import bypass_loss
from inference.runs.build_trainer import build_trainer
from inference.runs.trainer import annealed
from kpp_pyro.posteriors.families import FlowPosterior
from models.build import build
from models.registry import MODELS
from tests.programs import IMAGE_SHAPE, RandomEpisodes, random_episodes, small_config, small_pair

PARTS = [
    *({"model": name, "latent_size": 5} for name in MODELS if name != "kanerva_plus_plus"),
    {"write": "feed_forward"},
    {"write": "allocate", "reads": 2, "signs_per_scalar": 2, "episode_length": 6},
    {"write": "allocate", "memory_prior": "standard_normal", "episode_length": 6},
    {"write": "allocate_by_content", "latent_guide": "flow"},
    {"write": "allocate", "encoder_steps": 2},
    {"model": "vae", "latent_size": 5, "latent_guide": "low_rank"},
]
every_kind = pytest.mark.parametrize("parts", PARTS, ids=lambda parts: ",".join(map(str, parts.values())))


def loss_and_gradients(pair, objective, **options):
    """Loss and gradients of the same draws, by the names of the parameters; 0 where there is none."""
    named = dict(pair.named_parameters())
    torch.manual_seed(5)
    loss = annealed(make_objective(objective, **options)(pair.model, pair.guide))(random_episodes(), {"latent": 0.7})
    return loss.detach(), gradients(loss, named)


def gradients(loss, named):
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(named.items(), found, strict=True)
    }


def autoencoder(pair, episode):
    """-ln p(x | decoder(encoding)), (B, T), of the two networks alone."""
    encoding = pair.guide.encode(episode)
    code, latents = encoding.latent_loc, pair.guide.latents
    if isinstance(latents, FlowPosterior):
        centre = torch.zeros_like(code)
        for transform in latents.flow(encoding.features):
            centre = transform(centre)
        code = code + encoding.latent_scale * centre
    logits = pair.model.decoder(code)
    return (softplus(logits) - episode * logits).sum((-3, -2, -1))


@every_kind
def test_the_term_is_minus_ln_p_of_the_decoded_encoding(parts):
    pair, episode = small_pair(**parts), random_episodes()
    term = bypass_loss(pair.model, pair.guide, pair.guide.encode(episode), episode)
    assert term.shape == episode.shape[:2]
    torch.testing.assert_close(term, autoencoder(pair, episode))


@every_kind
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_its_gradient_is_added_to_that_of_every_bound_and_its_value_to_none(parts, objective):
    refused = parts.get("latent_guide") == "flow" and OBJECTIVES[objective].closed_kls
    if refused or (parts.get("memory_prior") and OBJECTIVES[objective].takes_particles):
        pytest.skip("refused, with or without the term")
    changes = {"latent_context": "image"} if OBJECTIVES[objective].independent_draws else {}
    pair = small_pair(**parts, **changes)
    options = {"particles": 3} if OBJECTIVES[objective].takes_particles else {}
    bound, of_bound = loss_and_gradients(pair, objective, **options)
    loss, found = loss_and_gradients(pair, objective, **options, bypass_weight=0.3)
    of_term = gradients(autoencoder(pair, random_episodes()).sum(), dict(pair.named_parameters()))
    assert torch.equal(loss, bound)
    for network in ("guide.encoder.", "model.decoder."):
        assert all(of_term[name].any() for name in of_term if name.startswith(network) and name.endswith("weight"))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, of_bound[name] + 0.3 * of_term[name], rtol=1e-8, atol=1e-8)


def trained(**changes):
    """Parameters, logged quantities and held-out ELBO terms after three steps."""
    config = small_config(model="pseudo_inverse_memory", latent_size=5, episodes_per_step=2, **changes)
    pair = build(config, IMAGE_SHAPE)
    torch.manual_seed(0)
    trainer = build_trainer(config, pair, RandomEpisodes())
    quantities = [trainer.quantities(trainer.train_step()) for _ in range(3)]
    return trainer.parameters, quantities


def test_a_weight_of_zero_trains_as_the_bound_alone_bit_for_bit():
    config = small_config(model="pseudo_inverse_memory", latent_size=5, bypass_weight=0.0)
    assert type(make_objective("trace", bypass_weight=config.training.bypass_weight)) is type(make_objective("trace"))
    pair = small_pair(model="pseudo_inverse_memory", latent_size=5)
    (one, of_one), (two, of_two) = (loss_and_gradients(pair, "trace", **o) for o in ({}, {"bypass_weight": 0.0}))
    assert torch.equal(one, two) and all(torch.equal(of_one[name], of_two[name]) for name in of_one)


def test_training_has_the_term_and_what_it_reports_does_not():
    (_, (without, *_)), (_, (with_term, *_)) = trained(bypass_weight=0.0), trained(bypass_weight=10.0)
    assert with_term["annealed_elbo_nats_per_image"] == without["annealed_elbo_nats_per_image"]  # of the first step
    assert with_term["gradient_norm"] > 2 * without["gradient_norm"]


def test_held_out_bounds_do_not_depend_on_the_weight():
    found = []
    for weight in (0.0, 10.0):
        pair = build(small_config(model="pseudo_inverse_memory", latent_size=5, bypass_weight=weight), IMAGE_SHAPE)
        episode = random_episodes().float()
        found.append(mean_elbo(pair.model, pair.guide, [(episode, torch.ones(episode.shape[:2], dtype=torch.bool))]))
    assert found[0] == found[1]


def test_a_term_that_is_not_finite_makes_the_loss_not_finite(monkeypatch):
    pair = small_pair()
    monkeypatch.setattr("inference.objectives.bypass.bypass_loss", lambda *_: torch.tensor([[float("inf")]]))
    assert loss_and_gradients(pair, "trace")[0].isfinite()
    assert loss_and_gradients(pair, "trace", bypass_weight=1.0)[0].isnan()


def test_it_is_refused_where_the_bound_is():
    pair = small_pair(model="pseudo_inverse_memory", latent_size=5)  # whose q(z | X, M, y) looks at the read
    with pytest.raises(InputError, match="for dreg, found"):
        make_objective("dreg", particles=2, bypass_weight=1.0)(pair.model, pair.guide)


@pytest.mark.parametrize("model", MODELS)
def test_its_weight_is_one_for_the_pseudo_inverse_memory_and_zero_for_others(model):
    weight = 1.0 if model == "pseudo_inverse_memory" else 0.0
    assert Config.preset(model=model).training.bypass_weight == weight
    assert Config.preset(model=model, bypass_weight=0.5).training.bypass_weight == 0.5
    assert Config.preset().replace(model=model).training.bypass_weight == weight


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_other_weights_are_refused(weight):
    with pytest.raises(InputError, match=r"^--bypass-weight: expected"):
        Config.preset(bypass_weight=weight)


def test_a_run_of_before_has_no_such_term(tmp_path):
    config = Config.preset(model="pseudo_inverse_memory")
    content = config.to_json()
    del content["training"]["bypass_weight"]
    assert Config.from_json(json.loads(json.dumps(content)), "config.json") == config.replace(bypass_weight=0.0)
