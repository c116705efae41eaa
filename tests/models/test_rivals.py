"""The rivals' ELBOs, written out by hand from each model's own densities, with the same noise."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal
from torch.nn.functional import softplus

from inference.objectives import make_objective
from inference.tracing import elbo_terms, trace_pair, written_memory
from kpp_pyro.networks.heads import positive
from models.registry import MODELS
from tests.programs import random_episodes, small_pair

MATRIX = ("kanerva_machine", "dynamic_kanerva_machine", "pseudo_inverse_memory")
SIZES = {"memory_rows": 4, "key_size": 3, "latent_size": 5}  # where a model has a use for them
EPISODES, IMAGES = 2, 6
matrix_models = pytest.mark.parametrize("model", MATRIX)
contexts = pytest.mark.parametrize("context", ["image", "image_and_read"])


def rival(model: str, **changes: object):
    used = MODELS[model].settings | {"latent_size"}
    return small_pair(model=model, **{name: size for name, size in SIZES.items() if name in used}, **changes)


def columns_log_prob(memory, loc, covariance):
    """ln MN(M; R, U, I): the columns are independent, and have the covariance U."""
    return MultivariateNormal(loc.mT, covariance.unsqueeze(-3)).log_prob(memory.mT).sum(-1)


def regressed(loc, covariance, weights, contents, variance):
    """Mean and covariance of memories, given contents = weights M + noise: Bayes' rule for precisions."""
    precision = covariance.inverse()
    posterior = (precision + weights.mT @ weights / variance).inverse()
    return posterior @ (precision @ loc + weights.mT @ contents / variance), posterior


def fitted(memory, contents, penalty):
    """Weights of ridge regression."""
    gram = memory @ memory.mT + penalty * torch.eye(memory.shape[-2], dtype=memory.dtype)
    return contents @ memory.mT @ gram.inverse()


def by_hand(name, program, episode):
    """ELBO terms of one draw: ln p(x|z) and ln q - ln p of key and latent, (B, T), and of the memory, (B,)."""
    model, guide = program.model, program.guide
    B = len(episode)
    N, D = model.linear.memory_loc.shape
    eye = torch.eye(N, dtype=torch.float64)
    prior_loc, u, sigma = (
        model.linear.memory_loc,
        positive(model.linear.raw_memory_scale, 0.05),
        positive(model.linear.raw_noise, 0.05),
    )
    features = guide.encoder(episode)
    content, latent_scale = guide.to_content(features)
    prior = prior_loc.expand(B, N, D), (u**2 * eye).expand(B, N, N)
    if name == "kanerva_machine":
        key_loc, key_scale = guide.to_key(features)
        loc, covariance = regressed(*prior, model.linear.addresses(key_loc), content, sigma**2)
    elif name == "dynamic_kanerva_machine":
        loc, covariance = prior
        for one in content.split(1, 1):
            loc, covariance = regressed(loc, covariance, fitted(loc, one, sigma**2), one, sigma**2)
    else:
        weights = content @ torch.linalg.pinv(prior_loc)
        loc = torch.linalg.pinv(weights) @ content
        covariance = (positive(guide.raw_memory_scale, 0.05) ** 2 * eye).expand(B, N, N)
    memory = loc + torch.linalg.cholesky(covariance) @ torch.randn(B, 1, N, D, dtype=torch.float64).squeeze(1)
    if name == "dynamic_kanerva_machine":
        key_loc = fitted(memory, content, sigma**2)
    elif name == "pseudo_inverse_memory":
        key_loc = content @ torch.linalg.pinv(memory)
    if name != "kanerva_machine":
        key_scale = positive(guide.raw_key_scale, 0.05).expand_as(key_loc)
    key = key_loc + key_scale * torch.randn_like(key_loc)
    weights = model.linear.addresses(key) if name == "kanerva_machine" else key
    read = weights @ memory
    latent_loc = content
    if guide.correction is not None:
        shift, log_change = guide.correction(features, read)
        latent_loc, latent_scale = content + latent_scale * shift, latent_scale * log_change.exp()
    latent = latent_loc + latent_scale * torch.randn_like(latent_loc)
    logits = model.decoder(latent)
    kl = {
        "memory": columns_log_prob(memory, loc, covariance) - columns_log_prob(memory, *prior),
        "key": (Normal(key_loc, key_scale).log_prob(key) - Normal(0.0, 1.0).log_prob(key)).sum(-1),
        "latent": (Normal(latent_loc, latent_scale).log_prob(latent) - Normal(read, sigma).log_prob(latent)).sum(-1),
    }
    return (episode * logits - softplus(logits)).sum((-3, -2, -1)), kl


@contexts
@matrix_models
def test_the_elbo_is_the_one_written_out_by_hand_with_the_memorys_kl_shared_by_the_images(model, context):
    program, episode = rival(model, latent_context=context), random_episodes(EPISODES, IMAGES)
    with torch.no_grad():
        torch.manual_seed(7)
        log_likelihood, kl = by_hand(model, program, episode)
        torch.manual_seed(7)
        terms = elbo_terms(program.model, program.guide, episode)
    kl["memory"] = (kl["memory"] / IMAGES).unsqueeze(1).expand(EPISODES, IMAGES)
    torch.testing.assert_close(terms.reconstruction, log_likelihood)
    assert terms.kl.keys() == kl.keys()
    for name, value in kl.items():
        torch.testing.assert_close(terms.kl[name], value, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(terms.elbo, log_likelihood - kl["memory"] - kl["key"] - kl["latent"])
    torch.testing.assert_close(terms.conditional_elbo, log_likelihood - kl["key"] - kl["latent"])


@pytest.mark.parametrize("validation", [True, False])
@matrix_models
def test_pyros_objective_pays_for_the_memory_once_an_episode(model, validation):
    program, episode = rival(model), random_episodes(EPISODES, IMAGES)
    with pyro.validation_enabled(validation):
        torch.manual_seed(7)
        loss = make_objective("trace")(program.model, program.guide)(episode)
    torch.manual_seed(7)
    log_likelihood, kl = by_hand(model, program, episode)
    elbo = log_likelihood.sum() - sum(value.sum() for value in kl.values())
    torch.testing.assert_close(-loss, elbo)
    ours, theirs = (torch.autograd.grad(value, program.model.linear.memory_loc) for value in (-loss, elbo))
    torch.testing.assert_close(ours, theirs)


@matrix_models
def test_the_mean_field_objective_has_the_memorys_closed_kl(model):
    program, episode = rival(model), random_episodes(EPISODES, IMAGES)
    torch.manual_seed(7)
    loss = make_objective("mean_field")(program.model, program.guide)(episode)
    torch.manual_seed(7)
    pair = trace_pair(program.model, program.guide, episode)
    q, p = pair.guide.nodes["memory"]["fn"], program.model.linear
    u = positive(p.raw_memory_scale, 0.05)
    eye = torch.eye(4, dtype=torch.float64)
    prior = MultivariateNormal(p.memory_loc.mT, u**2 * eye)
    posterior = MultivariateNormal(q.loc.mT, (q.row_tril @ q.row_tril.mT).unsqueeze(-3))  # (B, 1, D) columns
    closed = torch.distributions.kl_divergence(posterior, prior).sum()
    for name in ("key", "latent"):
        normals = (trace.nodes[name]["fn"].base_dist for trace in (pair.guide, pair.model))
        closed = closed + torch.distributions.kl_divergence(*normals).sum()
    torch.testing.assert_close(-loss, pair.log_probs().image.sum() - closed)


@pytest.mark.parametrize("validation", [True, False])
def test_the_vaes_elbo_is_the_one_written_out_by_hand(validation):
    program, episode = rival("vae"), random_episodes(EPISODES, IMAGES)
    model, guide = program.model, program.guide
    torch.manual_seed(7)
    with pyro.validation_enabled(validation):
        loss = make_objective("trace")(model, guide)(episode)
    torch.manual_seed(7)
    loc, scale = guide.to_latent(guide.encoder(episode))
    latent = loc + scale * torch.randn_like(loc)
    logits = model.decoder(latent)
    log_likelihood = (episode * logits - softplus(logits)).sum((-3, -2, -1))
    kl = (Normal(loc, scale).log_prob(latent) - Normal(0.0, 1.0).log_prob(latent)).sum(-1)
    torch.testing.assert_close(-loss, (log_likelihood - kl).sum())
    torch.manual_seed(7)
    terms = elbo_terms(model, guide, episode)
    assert terms.kl.keys() == {"latent"}
    torch.testing.assert_close(terms.elbo, log_likelihood - kl)
    assert torch.equal(terms.conditional_elbo, terms.elbo)


@pytest.mark.parametrize("model", [name for name, kind in MODELS.items() if not kind.has_memory])
def test_a_vaes_images_are_independent_and_its_memory_is_nothing(model):
    program, episode = rival(model, temporal_shift=0.0), random_episodes(EPISODES, IMAGES)
    memory = written_memory(program.guide, episode)
    assert memory.shape == (EPISODES, 1, 0)
    torch.manual_seed(7)
    own = elbo_terms(program.model, program.guide, episode)
    torch.manual_seed(7)
    given = elbo_terms(program.model, program.guide, episode, memory)
    assert torch.equal(own.elbo, given.elbo)


@matrix_models
def test_model_and_guide_share_their_linear_part_and_nothing_else(model):
    program = rival(model)
    model, guide = program.model, program.guide
    shared = {id(p) for p in guide.parameters()} & {id(p) for p in model.parameters()}
    assert guide.linear is model.linear and shared == {id(p) for p in model.linear.parameters()}
    parameters = list(program.parameters())
    assert len(parameters) == len({id(p) for p in parameters})
    assert len(parameters) == len([*model.parameters(), *guide.parameters()]) - len(shared)


@matrix_models
def test_the_mean_of_the_guides_log_ratio_is_the_memorys_kl(model):
    """E ln q(M) - ln p(M) over draws is the closed KL, within four standard errors."""
    program, episode = rival(model), random_episodes(EPISODES, IMAGES)
    with torch.no_grad():
        q = program.guide.memory_posterior(program.guide.encode(episode))
        p = program.model.memory_prior(IMAGES)
        draws = q.sample((4000,))
        ratios = (q.log_prob(draws) - p.log_prob(draws)).squeeze(-1)
        closed = torch.distributions.kl_divergence(q, p.expand(q.batch_shape)).squeeze(-1)
    assert ((ratios.mean(0) - closed).abs() < 4 * ratios.std(0) / math.sqrt(4000)).all()


@pytest.mark.parametrize("model", ["dynamic_kanerva_machine", "pseudo_inverse_memory"])
def test_keys_that_are_solved_for_need_a_memory(model):
    guide = rival(model).guide
    with pytest.raises(ValueError, match="expected a memory to solve for the keys in, found none"):
        guide.key_posterior(guide.encode(random_episodes()))


def test_more_passes_of_the_dynamic_machine_write_what_is_read_more_closely():
    """Every pass lowers the sum of squares that writing minimises, so that contents come out nearer, on average."""
    episode, distances = random_episodes(8, IMAGES), []
    for passes in (1, 8):
        program = rival("dynamic_kanerva_machine", write_passes=passes)
        with torch.no_grad():
            encoding = program.guide.encode(episode)
            memory = program.guide.memory_posterior(encoding).mean
            read = program.model.linear.read(memory, program.guide.solve(encoding.latent_loc, memory.squeeze(1)))
        distances.append((read - encoding.latent_loc).square().sum().item())
    assert distances[1] < distances[0]


def test_the_kanerva_machine_is_written_where_a_flow_of_keys_has_its_centre():
    program, episode = rival("kanerva_machine", key_guide="flow"), random_episodes(EPISODES, IMAGES)
    model, guide = program.model, program.guide
    with torch.no_grad():
        for parameter in guide.keys.parameters():  # at the start a flow is nearly the identity
            parameter.add_(0.3 * torch.randn_like(parameter))
    encoding = guide.encode(episode)
    keys = guide.key_posterior(encoding)
    assert (keys.mode - keys.loc).abs().max() > 0.1
    prior = model.linear.memory_loc, model.linear.memory_scale.square() * model.linear.identity
    expected, _ = regressed(
        *prior, model.linear.row_weights(keys.mode), encoding.latent_loc, model.linear.noise.square()
    )
    memory = guide.memory_posterior(encoding).mean
    torch.testing.assert_close(memory.squeeze(1), expected)
    heads = [coupling.nn.head.weight for coupling in guide.keys.flow.couplings]
    slopes = torch.autograd.grad(memory.square().sum(), [*guide.to_key.parameters(), *heads])
    assert all(slope.isfinite().all() and slope.abs().sum() > 0 for slope in slopes)


@pytest.mark.parametrize("model", ["kanerva_machine", "pseudo_inverse_memory"])
def test_the_order_of_images_matters_to_neither_memory(model):
    program, episode = rival(model), random_episodes(EPISODES, IMAGES)
    with torch.no_grad():
        order = torch.randperm(IMAGES)
        first, second = (program.guide.memory_posterior(program.guide.encode(e)) for e in (episode, episode[:, order]))
    torch.testing.assert_close(first.mean, second.mean)
    torch.testing.assert_close(*(q.row_tril @ q.row_tril.mT for q in (first, second)))
