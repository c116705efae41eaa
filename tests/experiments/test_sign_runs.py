"""Runs of signs, from the command line to their scores and to a memory to use."""

from __future__ import annotations

import json
import math

import pytest
import torch

from inference import load
from kpp_pyro.memory.blocks import cut_blocks
from tests.experiments.joined import quick_search
from tests.experiments.running import TINY, run, trained

# fmt: off
SMALL = [
    *TINY, "--precision", "float32", "--episode-length", 8, "--memory-channels", 4, "--memory-height", 8,
    "--memory-width", 16, "--block-height", 4, "--block-width", 4,
]
SIGNS = ["--signs-per-scalar", 4, "--objective", "mean_field", "--content-steps", 2]
QUICK = ["--limit", 8, "--particles", 20, "--control-particles", 10, "--posterior-images", 2]
# fmt: on


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "digits", *SMALL, *SIGNS)


def test_it_is_scored_from_its_own_memory_and_from_those_of_others(learned):
    with quick_search():
        process = run("evaluate.py", learned, *QUICK)
    assert process.returncode == 0, process.stderr
    content = json.loads((learned / "evaluation.json").read_text(), parse_constant=str)
    assert list(content["scores"]) == ["own", "left_out", "other", "empty"]
    for score in content["scores"].values():
        assert -256 < score["log_likelihood_nats_per_image"] < 0 and math.isfinite(score["elbo_nats_per_image"])
    assert content["settings"]["memory_scalars"] == 4 * 8 * 16


@torch.no_grad()
def test_its_memory_is_written_and_read_through_the_methods_of_all_memories(learned):
    opened = load(learned)
    trained_memory = opened.memory
    episode, _ = next(opened.episodes.test.batches(1))
    memory = trained_memory.write(episode)
    blocks = cut_blocks(memory.value, trained_memory.addressing.layout).flatten(2)[0]  # (N, S)
    held = opened.pair.guide.write.code.unpack(blocks)  # (N, D)
    latent = opened.pair.guide.encode(episode).latent_loc[0]
    assert held.shape[-1] == 4 * 64
    torch.testing.assert_close(held, latent)
    expected = opened.pair.model.image_likelihood(latent).mean
    torch.testing.assert_close(trained_memory.recall(memory, episode)[-1].images[0], expected, atol=1e-3, rtol=0)
    assert trained_memory.generate(memory, 5).images.shape == (1, 5, 1, 16, 16)
