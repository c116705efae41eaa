"""The example in CONTRIBUTING.md is a key prior that works as it stands there."""

from __future__ import annotations

import re

import pytest
import torch
from torch.distributions import StudentT, kl_divergence

from experiments.shared.speed.contenders import configuration, pyro_trainer, random_images
from inference.runs.config import Config
from inference.tracing import trace_pair
from kpp_pyro.errors import InputError
from kpp_pyro.priors import KEY_PRIORS
from tests.experiments.running import ROOT, run
from tests.programs import random_episodes, small_program

NAME = "student_t"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the example; what it registers is forgotten after the test."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE)
    assert NAME not in KEY_PRIORS
    monkeypatch.setitem(KEY_PRIORS, NAME, None)
    exec(block, {})


def test_the_command_line_offers_what_is_registered() -> None:
    text = "".join(run("svi_train.py", "--help").stdout.split())
    assert f"--key-prior{{{','.join(KEY_PRIORS)}}}" in text


def test_its_density_takes_the_place_of_the_normal(example: None) -> None:
    episode, pairs = random_episodes(), {}
    for prior in (NAME, "standard_normal"):
        torch.manual_seed(0)
        program = small_program("feed_forward", key_prior=prior)
        torch.manual_seed(1)
        pairs[prior] = trace_pair(program.model, program.guide, episode)
    key = pairs[NAME].value("key")
    assert torch.equal(key, pairs["standard_normal"].value("key"))
    density = StudentT(5.0).log_prob(key).sum((-2, -1))
    torch.testing.assert_close(pairs[NAME].log_probs().prior["key"], density, check_dtype=False)
    assert not torch.allclose(pairs["standard_normal"].log_probs().prior["key"], density)


@pytest.mark.parametrize("parts", [{"write": "feed_forward"}, {"model": "kanerva_machine"}], ids=str)
def test_it_trains(example: None, parts: dict[str, str]) -> None:
    config = configuration("digits", "cpu", key_prior=NAME, width=16, episode_length=4, **parts)
    trainer = pyro_trainer(config, random_images(config, num_images=32))
    losses = torch.stack([trainer.train_step().loss for _ in range(3)])
    assert losses.isfinite().all() and len(set(losses.tolist())) == 3


def test_closed_kls_are_refused_as_there_is_none(example: None) -> None:
    with pytest.raises(InputError, match=f"--key-prior: expected a normal .* found {NAME}"):
        Config.preset(key_prior=NAME, write="feed_forward", objective="mean_field")
    normal, heavy_tailed = (small_program("feed_forward", key_prior=name).model for name in ("standard_normal", NAME))
    with pytest.raises(NotImplementedError):
        kl_divergence(normal.key_prior(), heavy_tailed.key_prior())
