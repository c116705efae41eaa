"""With another default dtype of torch, everything has the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from inference import build
from inference.importance.scoring import ScoringPlan, score_episodes
from inference.trained_memory import TrainedMemory
from kpp_pyro.corruptions import CORRUPTIONS, corrupt
from kpp_pyro.data.augment import augment
from kpp_pyro.likelihoods.bernoulli import binarize, binarize_once
from tests.programs import IMAGE_SHAPE, random_episodes, small_config

EPISODES = random_episodes(episodes=2).float()
CONFIGS = {
    "allocate": {},
    "feed_forward": {"write": "feed_forward", "key_prior": "vamp", "latent_guide": "flow"},
    "kanerva_machine": {"model": "kanerva_machine"},
}


@contextmanager
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def assert_same(numbers: Callable[[], dict[str, Tensor]]) -> None:
    """The numbers, and their dtypes, are the same with either default."""
    torch.manual_seed(1)
    expected = numbers()
    torch.manual_seed(1)
    with float64_by_default():
        found = numbers()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.usefixtures("as_in_a_run")
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_what_is_built_scored_and_recalled_does_not_depend_on_the_default_dtype(changes):
    def numbers() -> dict[str, Tensor]:
        pair = build(small_config(**changes), IMAGE_SHAPE).eval()
        batches = [(EPISODES, torch.ones(EPISODES.shape[:2], dtype=torch.bool))]
        scores = score_episodes(pair.model, pair.guide, batches, ScoringPlan(20, 0, 0)).by_memory
        trained = TrainedMemory(pair.model, pair.guide)
        memory, hole = trained.write(EPISODES), corrupt(EPISODES, "mask", 0.25)
        return {
            **pair.state_dict(),
            **{name: score.log_likelihood for name, score in scores.items()},
            "written": memory.value,
            "recalled": trained.complete(memory, hole.images, hole.hidden, 2)[-1].images,
            "generated": trained.generate(memory, 3, steps=1).images,
            "interpolated": trained.interpolate(memory, EPISODES[:, 0], EPISODES[:, 1], 3).images,
        }

    assert_same(numbers)


def test_random_pixels_do_not_depend_on_the_default_dtype():
    grey = torch.rand(5, *IMAGE_SHAPE)

    def numbers() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {
            "dynamic": binarize(grey, "dynamic"),
            "static": binarize_once((grey * 255).to(torch.uint8)),
            "augmented": augment(grey, generator),
            **{name: corrupt(grey, name, kind.strengths[0], generator).images for name, kind in CORRUPTIONS.items()},
        }

    assert_same(numbers)
