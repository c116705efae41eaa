"""The recipes of docs/guides/extend.md work as they stand there: a file and a line each, in a copy of the project."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributions import StudentT

from inference import Config, InputError, load_plugins
from inference.objectives import make_objective
from inference.tracing import trace_pair
from kpp_pyro.likelihoods import LIKELIHOODS
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.priors import KEY_PRIORS
from tests.docs.markdown import blocks
from tests.experiments.running import ROOT, Finished, run, run_fresh
from tests.plugged import forgotten_after
from tests.programs import random_episodes, small_pair

PACKAGES = ("kpp_pyro", "models", "inference", "experiments")
PARTS = {
    "likelihood": "noisy_bernoulli",
    "dataset": "even_digits",
    "write": "allocate_from_the_end",
    "key_prior": "student_t",
    "latent_guide": "laplace",
    "objective": "vr_max",
}
MODEL = "batch_kanerva_machine"  # which has no write


def recipes() -> list[tuple[str, str, str]]:
    """Whether a file or a line, the file's name, and the text, of each block that the reader puts into a file."""
    found = blocks(ROOT / "docs" / "guides" / "extend.md")
    return [(kind, name, block.text) for block in found for kind in ("file", "line") if (name := block.marked(kind))]


def plugin(folder: Path, name: str) -> Path:
    """The file of a recipe, in a folder."""
    (text,) = [text for kind, path, text in recipes() if kind == "file" and Path(path).name == name]
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture
def added(tmp_path: Path) -> Iterator[None]:
    """All recipes, as plug-ins; what they register is forgotten after the test."""
    with forgotten_after():
        load_plugins(*(plugin(tmp_path, Path(path).name) for kind, path, _ in recipes() if kind == "file"))
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with what the recipes add."""
    root = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for kind, name, text in recipes():
        path = root / name
        if kind == "file":
            assert not path.exists() or path.read_text() == text  # somebody is following the recipe here
            path.write_text(text)
        elif text not in path.read_text():
            assert len(text.splitlines()) == 1
            path.write_text(path.read_text() + text)
    return root


@pytest.fixture(scope="module")
def ended(project: Path) -> list[Finished]:
    """Training and scoring of a run of all that was added, help, and what is refused, in one process of the copy."""
    parts = [f"--{name.replace('_', '-')}={value}" for name, value in PARTS.items()]
    of_steps = ["--steps=3", "--evaluate-every=3", "--episodes-per-step=2"]
    tiny = ["--width=16", "--episode-length=8", "--device=cpu", *of_steps]
    commands = (
        ["svi_train.py", *parts, *tiny, "--particles=2", "--out", "runs/mine"],
        ["evaluate.py", "runs/mine", "--particles=20", "--limit=16", "--control-particles=0"],
        ["svi_train.py", f"--model={MODEL}", *tiny, "--memory-rows=8", "--out", "runs/model"],
        ["svi_train.py", "--help"],
        ["svi_train.py", "--key-prior=student_t", "--objective=mean_field"],
    )
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    return run_fresh(*commands, root=project, environment=environment)[0]


def test_each_recipe_is_one_new_file_and_one_line() -> None:
    kinds = [kind for kind, _, _ in recipes()]
    assert kinds == ["file", "line"] * len([*PARTS, MODEL])


def test_a_run_of_all_that_was_added_trains_and_is_scored(project: Path, ended: list[Finished]) -> None:
    trained, scored, model, *_ = ended
    assert trained.returncode == 0, trained.stderr
    config = json.loads((project / "runs" / "mine" / "config.json").read_text())["config"]
    assert set(PARTS.values()) <= {
        value for part in config.values() if isinstance(part, dict) for value in part.values() if isinstance(value, str)
    }
    assert scored.returncode == 0, scored.stderr
    assert "nats per image" in scored.stdout
    assert model.returncode == 0, model.stderr


def test_the_command_line_offers_what_was_added(ended: list[Finished]) -> None:
    *_, offered, refused = ended
    assert all(name in offered.stdout for name in (*PARTS.values(), MODEL))
    assert refused.returncode == 2
    assert "--key-prior: expected a normal with --objective mean_field" in refused.stderr


def test_what_was_added_passes_the_linter_and_is_annotated(project: Path) -> None:
    """mypy would take a minute; that nothing lacks an annotation is what it would find first."""
    changed = [str(project / name) for _, name, _ in recipes()]
    for check in (["check", "--extend-select=ANN"], ["format", "--check"]):
        linted = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--no-cache", *changed],
            capture_output=True,
            text=True,
            cwd=project,
            check=False,
        )
        assert linted.returncode == 0, linted.stdout


def test_the_same_files_are_plug_ins(tmp_path: Path) -> None:
    files = [plugin(tmp_path, Path(path).name) for kind, path, _ in recipes() if kind == "file"]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in PARTS.items()]
    with forgotten_after():
        dry = run("svi_train.py", "--dry-run", *flags, *(f"--plugin={path}" for path in files))
    assert dry.returncode == 0, dry.stderr
    assert "student_t" not in KEY_PRIORS


def test_the_prior_s_density_takes_the_place_of_the_normal(added: None) -> None:
    episode, pairs = random_episodes(), {}
    for prior in ("student_t", "standard_normal"):
        torch.manual_seed(0)
        pair = small_pair("feed_forward", key_prior=prior)
        torch.manual_seed(1)
        pairs[prior] = trace_pair(pair.model, pair.guide, episode)
    key = pairs["student_t"].value("key")
    assert torch.equal(key, pairs["standard_normal"].value("key"))
    density = StudentT(5.0).log_prob(key).sum((-2, -1))
    torch.testing.assert_close(pairs["student_t"].log_probs().prior["key"], density, check_dtype=False)
    assert not torch.allclose(pairs["standard_normal"].log_probs().prior["key"], density)


def test_closed_kls_are_refused_as_there_is_none(added: None) -> None:
    with pytest.raises(InputError, match=r"--key-prior: expected a normal .* found student_t"):
        Config.preset(key_prior="student_t", write="feed_forward", objective="mean_field")


def test_noisy_pixels_have_probabilities_that_sum_to_one_and_are_bounded(added: None) -> None:
    likelihood = LIKELIHOODS["noisy_bernoulli"]
    for logit in (-100.0, -1.0, 0.0, 100.0):
        pixel = likelihood.distribution(torch.full((1, 1, 1), logit, dtype=torch.float64), 1)
        black, white = (pixel.log_prob(torch.full((1, 1, 1), value, dtype=torch.float64)) for value in (0.0, 1.0))
        torch.testing.assert_close(black.exp() + white.exp(), torch.ones_like(black))
        assert min(black, white) >= math.log(0.01) - 1e-9


def test_laplace_posteriors_have_the_given_location_and_deviation(added: None) -> None:
    loc, scale = torch.tensor([[0.5, -2.0]]), torch.tensor([[0.1, 3.0]])
    posterior = POSTERIORS["laplace"](4, torch.Size([2]))(loc, scale, torch.zeros(1, 4))
    assert posterior.batch_shape == (1,)
    torch.testing.assert_close(posterior.mode, loc)
    torch.testing.assert_close(posterior.stddev, scale)


def test_the_largest_weight_bounds_iwae_from_below(added: None) -> None:
    log_weights = 5 * torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0))
    bound, iwae = (make_objective(name, particles=8).log_mean(log_weights) for name in ("vr_max", "iwae"))
    assert (bound <= iwae).all()
    assert (iwae - math.log(8) <= bound).all()


def test_one_image_is_written_at_once_as_it_is_one_after_the_other(added: None) -> None:
    episode = random_episodes(images=1)
    written = {}
    for model in (MODEL, "dynamic_kanerva_machine"):
        guide = small_pair(model=model, memory_rows=4, latent_size=5).guide
        written[model] = guide.memory_posterior(guide.encode(episode))
    batch, sequential = written.values()
    torch.testing.assert_close(batch.mean, sequential.mean)
    sample = sequential.sample()
    torch.testing.assert_close(batch.log_prob(sample), sequential.log_prob(sample))
