"""Every registered model, with every legal pair of its other parts, keeps the contracts of a model and its guide.

The combinations are those of the registries that a `Config` accepts, and of them as few as hold every two parts side by
side in every model and write: a part that is registered is tested.
Episode encoders and network families only change what features and logits are, and are crossed with the default parts
alone.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import get_args

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import ImproperUniform

from inference.objectives import OBJECTIVES, make_objective
from inference.objectives.iwae import RenyiBound
from inference.runs.config import Config
from inference.tracing import PLATE_NESTING, elbo_terms, site_value, terms_of, trace_pair, written_memory
from kpp_pyro.errors import InputError
from kpp_pyro.networks import EPISODE_ENCODERS, NETWORKS
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.priors import KEY_PRIORS, LATENT_PRIORS, MEMORY_PRIORS
from kpp_pyro.writes import WRITES
from models.build import build
from models.config import ProgramConfig
from models.registry import MODELS
from tests.programs import IMAGE_SHAPE, off_start, random_episodes, small_config

EPISODES, IMAGES, PARTICLES = 2, 5, 3
SEED = 3  # of the noise that two runs have in common
WRITER = {"model": tuple(MODELS), "write": tuple(WRITES)}
OTHERS = {
    "memory_prior": tuple(MEMORY_PRIORS),
    "memory_guide": get_args(ProgramConfig.model_fields["memory_guide"].annotation),
    "read_order": get_args(ProgramConfig.model_fields["read_order"].annotation),
    "latent_prior": tuple(LATENT_PRIORS),
    "key_prior": tuple(KEY_PRIORS),
    "key_guide": tuple(POSTERIORS),
    "latent_guide": tuple(POSTERIORS),
    "latent_context": get_args(ProgramConfig.model_fields["latent_context"].annotation),
}
FEATURES = {"networks": tuple(NETWORKS), "episode_encoder": tuple(EPISODE_ENCODERS)}
DEFAULTS = Config.defaults()
ONLY_WRITE = {"feed_forward": ("guide.write.to_claim.",)}  # and say nothing of key or latent


def legal(choices: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """Every legal combination, field after field: what follows a refused beginning is refused, too, and not tried."""
    found: list[dict[str, str]] = [{}]
    for name, parts in choices.items():
        found = [longer for each in found for part in parts if is_legal(longer := {**each, name: part})]
    return found


def is_legal(parts: dict[str, str]) -> bool:
    try:
        Config.preset(**parts)
    except InputError:
        return False
    return True


def pairs_of(parts: dict[str, str]) -> set[frozenset[tuple[str, str]]]:
    """Every two parts of a combination, beside its model and write."""
    writer = {(name, parts[name]) for name in WRITER}
    return {frozenset(writer | {*pair}) for pair in combinations([(name, parts[name]) for name in OTHERS], 2)}


def with_every_pair(found: list[dict[str, str]]) -> list[dict[str, str]]:
    """Few combinations in which every pair that is in any of them still is: those with most new ones, in turn."""
    pairs, chosen = [pairs_of(parts) for parts in found], []
    missing = set().union(*pairs)
    while missing:
        best = max(range(len(found)), key=lambda index: len(pairs[index] & missing))
        chosen.append(found[best])
        missing -= pairs[best]
    return chosen


def name_of(parts: dict[str, str]) -> str:
    return ",".join(f"{name}={part}" for name, part in parts.items() if part != DEFAULTS[name]) or "defaults"


def one_at_a_time(choices: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """The defaults, and every choice beside the defaults of the others."""
    return [{}] + [{name: part} for name, parts in choices.items() for part in parts if part != DEFAULTS[name]]


def configuration(parts: dict[str, str], **changes: object) -> Config:
    used = MODELS[parts["model"]].settings
    matrix = {name: size for name, size in {"memory_rows": 4, "key_size": 3}.items() if name in used}
    latent = {} if "write" in used else {"latent_size": 5}
    shift = {"temporal_shift": 0.125} if parts.get("episode_encoder") == "temporal_shift" else {}
    return small_config(**{"episode_length": IMAGES, **matrix, **latent, **shift, **parts, **changes})


def double_program(config: Config):
    return off_start(build(config, IMAGE_SHAPE).double())


WRITERS = legal(WRITER)
EVERY_COMBINATION = legal(WRITER | OTHERS)
COMBINATIONS = with_every_pair(EVERY_COMBINATION)
WITH_FEATURES = [writer | features for writer in WRITERS for features in legal(FEATURES)]
ONE_OTHER = [parts for writer in WRITERS for other in one_at_a_time(OTHERS) if is_legal(parts := writer | other)]
BOUNDS = ("iwae", "dreg", "renyi")  # of particles; other objectives are crossed with the defaults of other parts alone
WITH_OBJECTIVES = [
    parts
    for name in OBJECTIVES
    for other in ONE_OTHER + (EVERY_COMBINATION[::23] if name in BOUNDS else [])
    if is_legal(parts := {**other, "objective": name})
]


def test_there_is_a_combination_with_every_part():
    for choices, found in ((WRITER | OTHERS, COMBINATIONS), (FEATURES, WITH_FEATURES)):
        for name, parts in choices.items():
            assert {combination[name] for combination in found} == set(parts), name
    assert {parts["objective"] for parts in WITH_OBJECTIVES} == set(OBJECTIVES)
    kept = set().union(*map(pairs_of, COMBINATIONS))
    assert all(pairs_of(parts) <= kept for parts in EVERY_COMBINATION)


@pytest.mark.parametrize("parts", COMBINATIONS, ids=name_of)
def test_a_combination_of_parts_is_consistent(parts):
    check(parts)


@pytest.mark.parametrize("parts", WITH_FEATURES, ids=name_of)
def test_any_features_are_consistent(parts):
    check(parts)


def check(parts: dict[str, str]) -> None:
    config = configuration(parts)
    program, episode = double_program(config), random_episodes(EPISODES, IMAGES)
    torch.manual_seed(SEED)
    pair = trace_pair(program.model, program.guide, episode)
    check_sites(config, program, pair)
    elbo = terms_of(pair.log_probs()).elbo
    check_gradients(config, program, elbo)
    with torch.no_grad(), pyro.validation_enabled(False):  # as in a run
        if points(config) != {"key", "latent"}:  # nothing of which there could be particles
            check_bound_of_particles(program, episode)
        check_saving(config, program, episode, elbo)
        check_generation(program, pair.value("memory"))


@pytest.mark.parametrize("parts", ONE_OTHER, ids=name_of)
def test_a_plate_of_particles_and_a_memory_that_is_given_keep_sites_and_plates(parts):
    config = configuration(parts)
    program, episode = double_program(config), random_episodes(EPISODES, IMAGES)
    check_sites(config, program, trace_pair(program.model, program.guide, episode, None, PARTICLES), PARTICLES)
    memory = written_memory(program.guide, random_episodes(EPISODES, IMAGES + 1, seed=2))
    check_sites(config, program, trace_pair(program.model, program.guide, episode, memory), given=memory)


def points(config, given=None) -> set[str]:
    """The sites at which the model has a point, which the guide leaves out."""
    of_latents = {"latent"} if LATENT_PRIORS[config.program.latent_prior].is_point else set()
    return of_latents | ({"key"} if config.program.read_order == "sequence" and given is None else set())


def check_sites(config, program, pair, particles=None, given=None):
    """The same sites, events, batches and plates in both; a memory that is given is read, and nothing is written."""
    log_probs, memory = pair.log_probs(), config.memory
    blocks = memory.reads * memory.memory_channels * memory.block_height * memory.block_width
    events = {"memory": program.model.memory_shape, "latent": (memory.latent_size or blocks,), "image": IMAGE_SHAPE}
    if program.guide.has_keys:
        events["key"] = program.model.key_shape
    known = points(config, given)
    latent = set(events) - {"image"} - known - ({"memory"} if given is not None else set())
    assert set(pair.guide.stochastic_nodes) == set(pair.model.stochastic_nodes) == latent
    assert set(pair.model.observation_nodes) == set(events) - latent
    assert {name for name in events if pair.model.nodes[name]["infer"].get("_deterministic")} == known
    assert not pair.guide.observation_nodes
    is_paid = config.program.memory_prior != "flat" or "memory_rows" in MODELS[config.program.model].settings
    assert set(log_probs.prior) == set(log_probs.posterior) == latent - (set() if is_paid else {"memory"})
    for trace, sites in ((pair.guide, latent), (pair.model, set(events))):
        for name in sites:
            node, shared = trace.nodes[name], name == "memory"
            plates = {"episodes": -2} | ({} if shared else {"images": -1}) | ({"particles": -3} if particles else {})
            batch = (*([particles] if particles else []), EPISODES, 1 if shared else IMAGES)
            assert {frame.name: frame.dim for frame in node["cond_indep_stack"]} == plates, name
            assert (node["fn"].batch_shape, node["fn"].event_shape) == (batch, events[name]), name
            assert name in {"image", *known} or node["value"].shape == batch + events[name], name
            assert node["value"].expand(batch + events[name]).isfinite().all(), name
            assert node["log_prob"].shape == batch, name
            assert name not in known or not node["log_prob"].any(), name
    if given is not None:
        assert site_value(pair.model, "memory") is given
        assert isinstance(pair.model.nodes["memory"]["fn"], ImproperUniform)


def check_gradients(config, program, elbo):
    """A finite ELBO moves every parameter but those that write a memory from which nothing is read."""
    assert elbo.shape == (EPISODES, IMAGES)
    assert elbo.isfinite().all()
    elbo.sum().backward()
    check_every_gradient(config, program)


def check_every_gradient(config, program):
    """Every parameter has a finite gradient, which is zero only of what writes a memory that is not read.

    Some are moved by nothing but the keys that fall off their blocks, of which a draw may have none.
    """
    parameters = {f"model.{name}": p for name, p in program.model.named_parameters()}
    parameters |= {f"guide.{name}": p for name, p in program.guide.named_parameters()}
    idle = ONLY_WRITE.get(config.memory.write, ()) if config.program.latent_prior == "standard_normal" else ()
    without = {name for name, p in parameters.items() if p.grad is None or not p.grad.abs().sum() > 1e-9}
    assert without - off_blocks(config) == {name for name in parameters if name.startswith(idle)} - off_blocks(config)
    assert all(p.grad.isfinite().all() for p in parameters.values() if p.grad is not None)


def off_blocks(config):
    """Parameters whose gradient is that of reads across the edge of a block, and zero if there are none."""
    found = set()
    if config.memory.write == "feed_forward" and config.program.key_prior == "vamp":
        found.add("guide.write.key_shift")  # the prior moves with the posteriors that it is made of
    if config.memory.write == "feed_forward" and config.training.objective == "mean_field":
        found.add("guide.write.to_claim.network.weight")  # a mean is where the closed KLs of its own are least
    return found


def check_bound_of_particles(program, episode):
    """IWAE of K particles is the log of the mean of these K weights: at least the mean of their logs, the ELBO."""
    model, guide = program.model, program.guide
    torch.manual_seed(SEED)
    bound = -RenyiBound(PLATE_NESTING, PARTICLES)(model, guide)(episode)
    torch.manual_seed(SEED)
    data = {"memory": guide.memory_posterior(guide.encode(episode)).rsample()}  # one for all particles
    given = poutine.condition(model, data=data), poutine.condition(guide, data=data)
    traces = trace_pair(*given, episode, None, PARTICLES)
    log_probs = traces.log_probs()
    of_memory, of_posterior = (trace.nodes["memory"]["log_prob"] for trace in (traces.model, traces.guide))
    shared = (of_memory - of_posterior)[0].sum()
    log_weights = log_probs.image + sum(log_probs.prior[name] - log_probs.posterior[name] for name in log_probs.prior)
    assert log_weights.shape == (PARTICLES, EPISODES, IMAGES)
    expected = (log_weights.logsumexp(0) - math.log(PARTICLES)).sum() + shared
    torch.testing.assert_close(bound, expected, rtol=1e-10, atol=1e-9)
    assert bound > log_weights.mean(0).sum() + shared - 1e-9  # equal weights where all draws read the same


def check_saving(config, program, episode, elbo):
    """A program of another seed becomes this one by loading what was saved of it."""
    state = program.state_dict()  # tensors: what a checkpoint does with them is tested with checkpoints
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = double_program(config.replace(seed=config.seed + 1))
    assert not all(torch.equal(value, state[f"guide.{name}"]) for name, value in other.guide.state_dict().items())
    other.load_state_dict(state)
    torch.manual_seed(SEED)
    assert torch.equal(elbo_terms(other.model, other.guide, episode).elbo, elbo)


def check_generation(program, memory):
    """Images are drawn from the memory that is given."""
    trace = program.model.generate(memory, 3)
    images = site_value(trace, "image")
    assert site_value(trace, "memory") is memory
    assert images.shape == (EPISODES, 3, *IMAGE_SHAPE)
    assert set(images.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("parts", WITH_OBJECTIVES, ids=name_of)
def test_every_legal_objective_has_a_finite_loss_and_gradient(parts):
    defaults = Config.preset(objective=parts["objective"]).training
    config = configuration(parts, particles=min(2, defaults.particles))
    program, training = double_program(config), config.training
    alpha = training.renyi_alpha if training.objective == "renyi" else 0.0
    objective = make_objective(training.objective, particles=training.particles, alpha=alpha)
    episode = random_episodes(EPISODES, IMAGES)
    torch.manual_seed(SEED)
    loss = objective(program.model, program.guide)(episode)
    loss.backward()
    assert loss.isfinite()
    if training.objective == "trace":
        torch.manual_seed(SEED)
        torch.testing.assert_close(-loss, elbo_terms(program.model, program.guide, episode).elbo.sum())
    check_every_gradient(config, program)


@pytest.mark.parametrize("context", OTHERS["latent_context"])
@pytest.mark.parametrize("writer", WRITERS, ids=name_of)
def test_what_is_written_depends_on_no_draw_of_keys_and_latents(writer, context):
    parts = {**writer, "latent_context": context}
    if not is_legal(parts):
        assert parts["model"] == "vae"
        return
    guide, episode = double_program(configuration(parts)).guide, random_episodes(EPISODES, IMAGES)
    torch.manual_seed(SEED)
    trace = poutine.trace(guide).get_trace(episode)
    others = {name: site_value(trace, name) + 1.0 for name in trace.stochastic_nodes if name in ("key", "latent")}
    torch.manual_seed(SEED)
    changed = poutine.trace(poutine.condition(guide, data=others)).get_trace(episode)
    assert torch.equal(site_value(trace, "memory"), site_value(changed, "memory"))
    posteriors = [t.nodes["memory"]["fn"] for t in (trace, changed)]
    means = [posterior.mean for posterior in posteriors]
    assert torch.equal(*means)
