"""The Hopfield memory of the tutorial: its read against closed forms, its ELBO by hand, and a run as a plug-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Normal

from inference import build, load_plugins
from inference.tracing import terms_of, trace_pair
from kpp_pyro.networks.heads import positive
from models.pair import Pair
from models.parts import SMALLEST_SCALE
from models.registry import MODELS
from tests.experiments.running import ROOT, TINY, run
from tests.plugged import forgotten_after
from tests.programs import IMAGE_SHAPE, random_episodes, small_config

PLUGIN = ROOT / "docs" / "tutorials" / "hopfield.py"
IMAGES, ROWS, SIZE, KEY = 4, 6, 5, 3


@pytest.fixture(scope="module")
def hopfield() -> Iterator[ModuleType]:
    with forgotten_after():
        load_plugins(PLUGIN)
        yield sys.modules[MODELS["hopfield"].build.__module__]


@pytest.fixture
def pair(hopfield: ModuleType) -> Pair:
    config = small_config(model="hopfield", memory_rows=ROWS, latent_size=SIZE, key_size=KEY, episode_length=IMAGES)
    return build(config, IMAGE_SHAPE).double()


@pytest.fixture
def patterns() -> torch.Tensor:
    """Patterns (N, D) of length 1: the one with the largest inner product is the nearest."""
    return F.normalize(torch.randn(8, 5, dtype=torch.float64), dim=-1)


def of(beta: float) -> torch.Tensor:
    return torch.tensor(beta, dtype=torch.float64)


def test_at_beta_zero_the_read_is_the_mean_of_the_rows(hopfield, patterns):
    query = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(hopfield.read(patterns, patterns, query, of(0.0)), patterns.mean(0).expand(3, -1))


def test_at_a_large_beta_the_read_is_the_nearest_row(hopfield, patterns):
    query = patterns[[5, 2]] + 0.1 * torch.randn(2, 5, dtype=torch.float64)
    nearest = patterns[torch.cdist(query, patterns).argmin(-1)]
    torch.testing.assert_close(hopfield.read(patterns, patterns, query, of(1e4)), nearest)


def test_a_read_is_a_step_that_lowers_the_energy_of_the_query(hopfield, patterns):
    """E(y) = |y|^2 / 2 - ln sum_n exp(beta y M_n) / beta; the read is y - grad E(y) (Ramsauer et al.)."""
    beta, query = of(4.0), torch.randn(20, 5, dtype=torch.float64, requires_grad=True)

    def energy(y: torch.Tensor) -> torch.Tensor:
        return y.square().sum(-1) / 2 - (beta * y @ patterns.T).logsumexp(-1) / beta

    (gradient,) = torch.autograd.grad(energy(query).sum(), query)
    after = hopfield.read(patterns, patterns, query, beta)
    torch.testing.assert_close(after, query - gradient)
    assert (energy(after) < energy(query)).all()


@pytest.mark.parametrize(
    ("images", "rows"), [(4, [[0], [1], [2], [3], [], []]), (8, [[0, 6], [1, 7], [2], [3], [4], [5]])]
)
def test_an_image_is_a_row_and_images_beyond_the_rows_are_added_to_them(pair, images, rows):
    encoding = pair.guide.encode(random_episodes(2, images))
    memory = pair.guide.memory_posterior(encoding)
    assert (memory.batch_shape, memory.event_shape) == ((2, 1), pair.model.memory_shape)
    for row, members in enumerate(rows):
        torch.testing.assert_close(memory.mean[:, 0, row], encoding.latent_loc[:, members].sum(1))


def test_the_elbo_is_that_of_the_docstring(pair):
    """ln p(x | z) + ln p(z | M, y) + ln p(y) - ln q(y) - ln q(z), for one draw, with the softmax written as a loop."""
    episode, model, guide = random_episodes(2, IMAGES), pair.model, pair.guide
    traces = trace_pair(model, guide, episode)
    key, latent, encoding = traces.value("key"), traces.value("latent"), guide.encode(episode)
    contents, weight = F.pad(encoding.latent_loc, (0, 0, 0, ROWS - IMAGES)), model.to_key.weight
    loc = torch.zeros_like(latent)
    for b in range(2):
        for t in range(IMAGES):
            match = torch.stack([model.log_beta.exp() * key[b, t] @ weight @ row for row in contents[b]])
            loc[b, t] = sum(
                share * row for share, row in zip(match.exp() / match.exp().sum(), contents[b], strict=True)
            )
    scale, key_scale = (positive(raw, SMALLEST_SCALE) for raw in (model.raw_scale, guide.raw_key_scale))
    expected = (
        Bernoulli(logits=model.decoder(latent)).log_prob(episode).sum((-3, -2, -1))
        + (
            Normal(loc, scale).log_prob(latent) - Normal(encoding.latent_loc, encoding.latent_scale).log_prob(latent)
        ).sum(-1)
        + (Normal(0.0, 1.0).log_prob(key) - Normal(encoding.latent_loc @ weight.T, key_scale).log_prob(key)).sum(-1)
    )
    log_probs = traces.log_probs()
    found = log_probs.image + sum(log_probs.prior[name] - log_probs.posterior[name] for name in ("key", "latent"))
    torch.testing.assert_close(found, expected)


def test_every_parameter_has_a_gradient(pair):
    traces = trace_pair(pair.model, pair.guide, random_episodes(2, IMAGES))
    terms_of(traces.log_probs()).elbo.sum().backward()
    still = [name for name, p in pair.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-9]
    assert not still


@pytest.mark.usefixtures("no_figures", "as_in_a_run")
def test_the_file_is_a_plug_in_that_trains_and_is_scored(tmp_path: Path):
    with forgotten_after():
        flags = [*TINY, "--model", "hopfield", "--episode-length", "8", "--device", "cpu"]
        trained = run("svi_train.py", "--plugin", PLUGIN, *flags, "--out", tmp_path / "run")
        assert trained.returncode == 0, trained.stderr
        few = ["--particles", "20", "--limit", "16", "--control-particles", "4", "--posterior-images", "1"]
        scored = run("evaluate.py", tmp_path / "run", *few)
        assert scored.returncode == 0, scored.stderr
    content = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert content["settings"]["memory_scalars"] == 32 * 100
    assert content["complete"] is None and set(content["scores"]) == {"own", "left_out", "other", "empty"}
