"""Stock Pyro takes a pair as it is: SVI, any of its ELBOs, autoguides, Predictive and the rendering of models."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.inspect import get_model_relations
from pyro.optim import ClippedAdam
from torch import Tensor

from inference.importance.estimator import defensive_proposal, importance_score
from inference.importance.search import refined_proposal
from inference.metrics.elbo import mean_elbo
from inference.objectives import make_objective
from inference.posterior.nuts import sample_posterior
from inference.runs.build_trainer import build_trainer
from inference.tracing import elbo_terms, terms_of, trace_pair
from inference.trained_memory import TrainedMemory
from kpp_pyro.priors import MEMORY_PRIORS
from models.pair import Pair
from tests.programs import RandomEpisodes, off_start, random_episodes, small_config, small_pair
from tests.waiting import HANGS

RIVAL = {"memory_rows": 4, "latent_size": 5}
KANERVA_PLUS_PLUS = [{}, {"write": "feed_forward"}]
MATRIX = [
    {"model": "kanerva_machine", "key_size": 3, **RIVAL},
    {"model": "dynamic_kanerva_machine", **RIVAL},
    {"model": "pseudo_inverse_memory", **RIVAL},
]
PAID = {name: {"memory_prior": name, "episode_length": 6} for name in MEMORY_PRIORS if name != "flat"}
MEMORYLESS = [{"model": "vae", "latent_size": 5}, {"model": "two_layer_vae", "key_size": 3, "latent_size": 5}]
PAIRS = [*KANERVA_PLUS_PLUS, PAID["autoregressive"], *MATRIX, *MEMORYLESS]
SOME = [{}, MATRIX[0]]


def _name(changes: dict[str, object]) -> str:
    return str(changes.get("model") or changes.get("write") or changes.get("memory_prior") or "allocate")


every_pair = pytest.mark.parametrize("changes", PAIRS, ids=_name)
some_pairs = pytest.mark.parametrize("changes", SOME, ids=_name)


def parameters(pair: Pair) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in pair.named_parameters()}


def unchanged(pair: Pair, before: dict[str, Tensor]) -> list[str]:
    return [name for name, value in pair.named_parameters() if torch.equal(value, before[name])]


def adam() -> ClippedAdam:
    return ClippedAdam({"lr": 1e-3})


def stored() -> int:
    return len(list(pyro.get_param_store().keys()))


@every_pair
@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO])
def test_svi_trains_every_parameter(changes, objective):
    pair, episode = small_pair(**changes), random_episodes()
    before = parameters(pair)
    svi = SVI(pair.model, pair.guide, adam(), objective())
    losses = [svi.step(episode) for _ in range(25)]
    # With room for all, closed KLs leave claims no gradient, see `FeedForwardWrite`.
    without_gradient = objective is TraceMeanField_ELBO and changes.get("write") == "feed_forward"
    assert unchanged(pair, before) == ["guide.write.to_claim.network.weight"] * without_gradient
    assert sum(losses[-5:]) < sum(losses[:5])


@every_pair
def test_a_step_of_svi_is_a_step_of_the_torch_optimiser_on_the_same_loss(changes):
    """`Trace_ELBO()(model, guide)` is a module, of every parameter once; each of SVI's moves by the same."""
    pair, twin, episode = off_start(small_pair(**changes)), off_start(small_pair(**changes)), random_episodes()
    before = parameters(pair)
    torch.manual_seed(1)
    loss = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step(episode)
    module = Trace_ELBO()(twin.model, twin.guide)
    assert {id(p) for p in module.parameters()} == {id(p) for p in twin.parameters()}
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    torch.manual_seed(1)
    own = module(episode)
    own.backward()
    optimizer.step()
    assert loss == pytest.approx(own.item(), rel=1e-12)
    assert not unchanged(twin, before)
    for (name, value), other in zip(pair.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(value, other, msg=name)


@every_pair
def test_vectorised_particles_are_draws_of_the_elbo(changes):
    pair, episode = off_start(small_pair(**changes)), random_episodes(2, 4)
    objective = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2)
    before = parameters(pair)
    SVI(pair.model, pair.guide, adam(), objective).step(episode)
    assert not unchanged(pair, before)
    many = Trace_ELBO(num_particles=400, vectorize_particles=True, max_plate_nesting=2)
    pair.eval()  # in training, a learned prior takes the blocks in one random order, the same for all particles
    with torch.no_grad():
        single = torch.tensor([Trace_ELBO().loss(pair.model, pair.guide, episode) for _ in range(100)])
        found = many.loss(pair.model, pair.guide, episode)
    assert abs(found - single.mean()) < 5 * single.std() * (1 / 100 + 1 / 400) ** 0.5


@pytest.mark.parametrize("changes", PAID.values(), ids=_name)
@pytest.mark.parametrize("particles", [1, 3])
def test_pyros_loss_of_a_memory_that_is_paid_for_is_ours(changes, particles):
    """Of one draw, and of several under a plate of particles; the KL of the memory counts once an episode."""
    pair, episode = off_start(small_pair(**changes)).eval(), random_episodes(2, 6)
    stock = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=2)
    with torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(1)
        loss = stock.loss(pair.model, pair.guide, episode)
        torch.manual_seed(1)
        terms = terms_of(trace_pair(pair.model, pair.guide, episode, particles=particles).log_probs())
        assert loss == pytest.approx(-terms.elbo.sum().item() / particles, rel=1e-12)
        torch.manual_seed(1)
        assert particles > 1 or loss == pytest.approx(make_objective("trace")(pair.model, pair.guide)(episode).item())


@every_pair
@pytest.mark.filterwarnings("ignore:Found plate statements in guide but not model")  # ours are no `pyro.plate`s
def test_an_autoguide_fits_the_latents_of_a_model_with_a_given_memory(changes):
    pair, episode = small_pair(**changes), random_episodes(2, 4)
    given = poutine.condition(pair.model, data={"memory": pair.guide.write_memory(episode)})
    svi = SVI(given, AutoNormal(given), ClippedAdam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(episode) for _ in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5])


@every_pair
@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_what_the_guide_says(changes, parallel):
    pair, episode = small_pair(**changes), random_episodes()
    model = poutine.uncondition(pair.model)
    samples = Predictive(model, guide=pair.guide, num_samples=4, parallel=parallel)(episode)
    assert samples["image"].shape == (4, *episode.shape)
    assert set(samples["image"].unique().tolist()) == {0.0, 1.0} and not torch.equal(samples["image"][0], episode)
    observed = Predictive(pair.model, guide=pair.guide, num_samples=4, parallel=parallel)(episode)
    assert all(torch.equal(image, episode) for image in observed["image"].expand(4, *episode.shape))


@pytest.mark.parametrize("changes", KANERVA_PLUS_PLUS, ids=_name)
def test_predictive_images_come_from_the_guides_memory(changes):
    """Keys and latents are the model's own: only the memory, which has no draw in the model, is the guide's."""
    pair, episode = small_pair(**changes), random_episodes()
    written = poutine.block(pair.guide, expose=["memory", "episodes"])
    with torch.no_grad():
        samples = Predictive(poutine.uncondition(pair.model), guide=written, num_samples=50)(episode)
        memory = pair.guide.write_memory(episode)
        assert all(torch.equal(each, memory) for each in samples["memory"])
        own, empty = (
            pair.model.latent_prior(each, samples["key"]).log_prob(samples["latent"]).mean()
            for each in (memory.expand_as(samples["memory"]), torch.zeros_like(samples["memory"]))
        )
        entropy = pair.model.latent_prior(memory.expand_as(samples["memory"]), samples["key"]).entropy()
    assert own > empty
    assert own == pytest.approx(-entropy.mean().item(), abs=0.2)


@every_pair
def test_relations_are_those_of_the_program(changes):
    pair, episode = small_pair(**changes), random_episodes()
    found = get_model_relations(pair.model, (episode,))
    keys = ["key"] if pair.guide.has_keys else []
    points = ["key", "latent"] if "memory_prior" in changes else []
    memory = ["memory"] if all(pair.model.memory_shape) else []
    of_latent = [name for name in [*memory, *keys] if name not in points]
    of_image = of_latent if points else ["latent"]  # a point is passed through
    expected = {"memory": [], **{name: [] for name in keys}, "latent": of_latent, "image": of_image}
    assert found["sample_sample"] == expected and found["observed"] == [*points, "image"]
    assert all(name in found["sample_dist"] for name in expected)


@every_pair
@pytest.mark.skipif(importlib.util.find_spec("graphviz") is None, reason="graphviz is not installed")
def test_the_model_is_rendered(changes):
    pair = small_pair(**changes)
    source = pyro.render_model(pair.model, (random_episodes(),)).source
    assert all(name in source for name in ("memory", "latent", "image"))


@some_pairs
def test_two_pairs_in_one_process_are_trained_each_by_itself(changes):
    first, second, episode = small_pair(**changes), small_pair(**changes, seed=3), random_episodes()
    SVI(first.model, first.guide, adam(), Trace_ELBO()).step(episode)
    after, untouched = parameters(first), parameters(second)
    assert len(unchanged(second, untouched)) == len(untouched)
    SVI(second.model, second.guide, adam(), Trace_ELBO()).step(episode)
    assert len(unchanged(first, after)) == len(after) and not unchanged(second, untouched)


@some_pairs
def test_what_is_loaded_after_svi_is_what_runs(changes):
    pair, other, episode = small_pair(**changes), small_pair(**changes, seed=3), random_episodes()
    svi = SVI(pair.model, pair.guide, adam(), Trace_ELBO())
    svi.step(episode)
    pair.load_state_dict(other.state_dict())
    losses = []
    for each in (pair, other):
        torch.manual_seed(2)
        losses.append(Trace_ELBO().loss(each.model, each.guide, episode))
    assert losses[0] == losses[1] and len(unchanged(pair, parameters(other))) == len(parameters(other))
    svi.step(episode)
    assert not unchanged(pair, parameters(other))


@some_pairs
def test_nothing_of_this_project_touches_the_parameter_store(changes):
    pair, episode = small_pair(**changes), random_episodes(2, 4)
    memories = TrainedMemory(pair.model, pair.guide)
    memory = memories.write(episode)
    memories.recall(memory, episode)
    memories.generate(memory, 2)
    given = pair.guide.write_memory(episode)
    elbo_terms(pair.model, pair.guide, episode)
    mean_elbo(pair.model, pair.guide, [(episode, torch.ones(episode.shape[:2], dtype=torch.bool))])
    for proposal in (
        defensive_proposal(pair.model, pair.guide, episode, given),
        refined_proposal(pair.model, pair.guide, episode, given, steps=2),
    ):
        importance_score(pair.model, proposal, episode, given, particles=50)
    assert stored() == 0


@some_pairs
def test_nuts_does_not_touch_it(changes):
    pair, episode = small_pair(**changes), random_episodes(1, 1)
    memory = pair.guide.write_memory(episode)
    sample_posterior(pair.model, pair.guide, episode[0, 0], memory, chains=1, draws=4, warmup=2)
    assert stored() == 0


@some_pairs
@pytest.mark.parametrize("objective", ["trace", "mean_field", "iwae"])
def test_training_does_not_touch_it(changes, objective):
    particles = {"particles": 2} if objective == "iwae" else {}
    config = small_config(**changes, objective=objective, **particles)
    pair = small_pair(**changes, objective=objective, **particles).float()
    trainer = build_trainer(config, pair, RandomEpisodes())
    for _ in range(2):  # with Pyro's validation, and without
        trainer.train_step()
    assert stored() == 0


def test_importing_changes_no_setting():
    """Nothing global is different after all packages were imported: a process of its own, with nothing else in it."""
    root = Path(__file__).parents[2]
    modules = [
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for package in ("kpp_pyro", "models", "inference", "experiments")
        for path in sorted((root / package).rglob("*.py"))
    ]
    code = (
        "import pyro, torch\n"
        "def settings():\n"
        "    torchs = torch.get_default_dtype(), torch.is_grad_enabled()\n"
        "    return pyro.settings.get(), torchs, list(pyro.get_param_store().keys())\n"
        "before = settings()\n"
        "import importlib\n"
        f"for name in {modules!r}:\n"
        "    if not name.endswith(('.explore_page', '.explore_controls')):\n"  # of an extra, which need not be there
        "        importlib.import_module(name)\n"
        "assert settings() == before, (before, settings())\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=HANGS)
    assert process.returncode == 0, process.stderr
