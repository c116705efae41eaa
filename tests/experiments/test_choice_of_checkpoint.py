"""The checkpoint that is kept: by the ELBO, or by a bound of several draws."""

from __future__ import annotations

import pyro
import pytest

from experiments.build import open_run
from inference.scoring import ScoringPlan, score_episodes
from kpp_pyro.checkpoint import load_checkpoint
from tests.experiments.running import TINY, records, trained

DRAWS = 5
FEED_FORWARD = ["--write", "feed_forward"]
RANDOM = ["--model", "kanerva_machine", "--kl-memory-weight", 0.5]


@pytest.mark.parametrize("flags", [FEED_FORWARD, RANDOM], ids=["deterministic memory", "random memory"])
def test_of_several_draws_the_bound_decides_that_a_score_of_the_validation_set_gives(flags, tmp_path):
    folder = trained(tmp_path / "run", *TINY, *flags, "--validation-particles", DRAWS, "--precision", "float32")
    looks = records(folder, "validation")
    share = 0.5 if flags is RANDOM else 0.0

    def value(record):
        return record["log_likelihood_nats_per_image"] - share * record.get("kl_memory_nats_per_image", 0.0)

    best = max(looks, key=value)
    assert load_checkpoint(folder / "best.pt")["step"] == best["step"]
    assert load_checkpoint(folder / "checkpoint.pt")["best_elbo_nats_per_image"] == pytest.approx(value(best))

    run, plan = open_run(folder), ScoringPlan(DRAWS, control_particles=0)
    run.program.train(False)
    with pyro.validation_enabled(False):
        batches = run.episodes.validation.batches(8)
        scores = score_episodes(run.program.model, run.program.guide, batches, plan, seed=0)
    assert best["log_likelihood_nats_per_image"] == pytest.approx(scores.own.log_likelihood.mean().item(), rel=1e-5)
    for look in looks:
        given = look["elbo_nats_per_image"] + look.get("kl_memory_nats_per_image", 0.0)
        assert look["log_likelihood_nats_per_image"] > given  # by Jensen's inequality, on average


def test_with_the_papers_design_several_draws_decide_unless_told_otherwise(tmp_path):
    named = trained(tmp_path / "one", *TINY, *FEED_FORWARD, "--validation-particles", 1)
    default = trained(tmp_path / "several", *TINY, *FEED_FORWARD)
    for folder, several in ((named, False), (default, True)):
        looks = records(folder, "validation")
        assert all(("log_likelihood_nats_per_image" in look) is several for look in looks)
    one, other = (load_checkpoint(folder / "checkpoint.pt") for folder in (named, default))
    assert one["training_seconds"] > 0 and one["step"] == other["step"]
    for part in ("model", "guide"):  # looking more closely changes nothing of what is learned
        assert all(value.equal(other[part][name]) for name, value in one[part].items())
