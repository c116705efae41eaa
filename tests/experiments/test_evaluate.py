"""evaluate.py and benchmark_scoring.py, on a digits run that has learned to use its memory."""

from __future__ import annotations

import json
import math
import re
import shutil

import arviz as az  # noqa: F401  # loaded here, so that no script is the first to pay for it
import pyro
import pytest
import torch

import inference.importance.scoring
import inference.runs.plots
from inference import load
from inference.importance.estimator import defensive_proposal, importance_score
from inference.posterior.arviz_data import load as load_posterior
from inference.tracing import own_randomness
from tests.experiments.joined import quick_search
from tests.experiments.running import TINY, changed, refused, run, trained

# fmt: off
LEARNED = [
    "--width", "64", "--steps", "300", "--evaluate-every", "300", "--warmup-steps", "20", "--episodes-per-step", "4",
    "--episode-length", "16", "--memory-width", "20", "--precision", "bfloat16",
]
QUICK = ["--limit", "20", "--particles", "50", "--control-particles", "20", "--posterior-images", "2"]
# fmt: on
OWN_ONLY = changed(QUICK, "--control-particles", "0")
SCORE_FIGURES = {"pareto_k.png", "bounds.png", "controls.png"}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    process = run("svi_train.py", *LEARNED, "--out", folder)
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="module")
def evaluated(learned, tmp_path_factory):
    """A copy of the run that is scored once, and what was said."""
    folder = shutil.copytree(learned, tmp_path_factory.mktemp("runs") / "evaluated")
    with quick_search():
        return folder, run("evaluate.py", folder, *QUICK)


@pytest.fixture
def undrawn(monkeypatch):
    """No figures: drawing takes longer than scoring a few images."""
    monkeypatch.setattr(inference.runs.plots, "plot_score_figures", lambda *_: {})


@pytest.fixture
def without_others(monkeypatch):
    """No figures but those of the scores are drawn again."""
    for name in ("plot_figures", "plot_memory_at_work"):
        monkeypatch.setattr(inference.runs.plots, name, lambda *_: {})


def evaluation(folder):
    """What evaluate.py wrote, without what no two runs share."""
    content = json.loads((folder / "evaluation.json").read_text(), parse_constant=pytest.fail)
    del content["seconds"], content["particle_images_per_second"], content["environment"]
    return content


def test_the_scores_are_in_a_file_with_all_that_a_table_has_to_state(evaluated):
    folder, process = evaluated
    assert process.returncode == 0, process.stderr
    content = evaluation(folder)
    settings = content["settings"]
    assert (settings["images"], settings["particles"], settings["episode_length"]) == (20, 50, 16)
    assert (settings["memory_scalars"], settings["binarization"], settings["split"]) == (1600, "static", "test")
    assert settings["content_bits"] is None
    assert list(content["scores"]) == ["own", "left_out", "other", "empty"]
    per_image = content["per_image"]["log_likelihood_nats"]
    own = content["scores"]["own"]
    assert len(per_image) == len(content["per_image"]["pareto_k"]) == 20
    assert own["log_likelihood_nats_per_image"] == pytest.approx(sum(per_image) / 20, abs=1e-3)
    spread = torch.tensor(per_image).std().item() / math.sqrt(20)
    assert own["log_likelihood_standard_error"] == pytest.approx(spread, rel=1e-2)
    for name, score in content["scores"].items():
        if name != "own":
            values = content["per_image"][f"{name}_log_likelihood_nats"]
            assert score["log_likelihood_nats_per_image"] == pytest.approx(sum(values) / 20, abs=1e-3)
    kls = sum(value for name, value in own.items() if name.startswith("kl_") and name.endswith("nats_per_image"))
    assert own["elbo_nats_per_image"] == pytest.approx(own["reconstruction_nats_per_image"] - kls)
    bits = own["log_likelihood_nats_per_image"] / (256 * math.log(2))
    assert content["log_likelihood_bits_per_dim"] == pytest.approx(bits)
    assert {path.name for path in (folder / "figures").iterdir()} >= SCORE_FIGURES
    assert not list(folder.glob(".*.partial"))


def test_what_is_printed_is_in_the_file(evaluated):
    folder, process = evaluated
    scores = evaluation(folder)["scores"]
    found = dict(re.findall(r"^  (own|left out|other|empty) +(-[\d.]+) ±", process.stdout, flags=re.MULTILINE))
    assert len(found) == 4, process.stdout
    for name, value in found.items():
        written = scores[name.replace(" ", "_")]["log_likelihood_nats_per_image"]
        assert float(value) == pytest.approx(written, abs=0.006)
    for folder_name in SCORE_FIGURES:
        assert folder_name in process.stdout


@pytest.mark.usefixtures("undrawn")
def test_numbers_are_ordered_as_theory_says(learned):
    process = run("evaluate.py", learned, "--particles", 1000, "--control-particles", 50, "--limit", 48)
    assert process.returncode == 0, process.stderr
    scores = evaluation(learned)["scores"]
    own = scores["own"]
    bounds = {bound["particles"]: bound["log_likelihood_nats_per_image"] for bound in own["bounds"]}
    noise = own["monte_carlo_error_nats_per_image"]
    assert own["elbo_nats_per_image"] <= bounds[10] + 10 * noise
    assert bounds[10] <= bounds[1000] + 10 * noise
    assert bounds[1000] == own["log_likelihood_nats_per_image"]
    assert bounds[1000] < evaluation(learned)["limit_nats_per_image"] == pytest.approx(-math.log(16))
    value = {name: score["log_likelihood_nats_per_image"] for name, score in scores.items()}
    assert value["own"] > max(value["left_out"], value["other"], value["empty"]) + 10
    errors = scores["left_out"]["log_likelihood_standard_error"] + scores["other"]["log_likelihood_standard_error"]
    assert abs(value["left_out"] - value["other"]) < 3 * errors  # random episodes: neither knows the image


@pytest.mark.usefixtures("undrawn")
def test_a_memory_of_the_same_characters_knows_something_of_an_image_left_out(learned):
    flags = ["--classes-per-episode", 1, "--limit", 64, "--particles", 20, "--control-particles", 50]
    assert run("evaluate.py", learned, *flags).returncode == 0
    scores = evaluation(learned)["scores"]
    left_out, other = scores["left_out"], scores["other"]
    gain = left_out["log_likelihood_nats_per_image"] - other["log_likelihood_nats_per_image"]
    assert gain > 2 * (left_out["log_likelihood_standard_error"] + other["log_likelihood_standard_error"])
    assert evaluation(learned)["settings"]["classes_per_episode"] == 1


@pytest.mark.usefixtures("undrawn")
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(learned, evaluated):
    contents = [evaluation(evaluated[0])]
    for flags in (QUICK, [*OWN_ONLY, "--seed", "4"]):
        with quick_search():
            assert run("evaluate.py", learned, *flags).returncode == 0
        contents.append(evaluation(learned))
    assert contents[0] == contents[1]
    assert contents[0]["scores"]["own"] != contents[2]["scores"]["own"]


def test_bfloat16_networks_change_the_score_by_less_than_a_twentieth_of_a_nat(learned):
    scores = []
    for precision in ("bfloat16", "float32"):
        opened = load(learned, precision=precision)
        model, guide = opened.pair.model, opened.pair.guide
        episode, _ = next(opened.episodes.test.batches(8))
        with own_randomness(0, torch.device("cpu")), pyro.validation_enabled(False):
            proposal = defensive_proposal(model, guide, episode)
            scores.append(importance_score(model, proposal, episode, particles=100).log_likelihood)
    difference = scores[0] - scores[1]
    assert difference.abs().max() > 0  # there are two precisions
    assert abs(difference.mean().item()) < 0.05


@pytest.mark.usefixtures("undrawn")
def test_gaps_add_up_to_the_distance_between_the_elbo_and_the_score(learned):
    process = run("evaluate.py", learned, *OWN_ONLY, "--gaps", "--refine-steps", 20)
    assert process.returncode == 0, process.stderr
    content = evaluation(learned)
    gaps, own = content["gaps"], content["scores"]["own"]
    assert list(content["scores"]) == ["own"]
    total = gaps["amortisation_gap_nats_per_image"] + gaps["approximation_gap_nats_per_image"]
    assert total == pytest.approx(own["log_likelihood_nats_per_image"] - own["elbo_nats_per_image"], abs=1e-6)
    assert gaps["elbo_nats_per_image"] == pytest.approx(own["elbo_nats_per_image"])
    assert "amortisation" in process.stdout


@pytest.mark.usefixtures("undrawn")
def test_contents_are_refined_and_rounded_where_it_is_asked_for_and_the_table_says_so(learned):
    reconstruction = []
    for flags in (["--content-bits", 4], ["--content-bits", 4, "--content-steps", 20]):
        process = run("evaluate.py", learned, *changed(OWN_ONLY, "--limit", 8, "--particles", 10), *flags)
        assert (
            process.returncode == 0
            and "WARNING: k-hat, and so the reliability of the score, needs more --particles" in process.stdout
        )
        assert "k-hat unknown" in process.stdout and "k-hat >" not in process.stdout
        content = evaluation(learned)
        settings = content["settings"]
        assert (settings["content_steps"], settings["content_bits"]) == (20 if "--content-steps" in flags else 0, 4)
        reconstruction.append(content["scores"]["own"]["reconstruction_nats_per_image"])
    assert content["scores"]["own"]["trustworthy"] is False  # ten weights have no tail to look at
    assert reconstruction[1] > reconstruction[0] + 1


@pytest.mark.usefixtures("undrawn")
def test_a_score_that_a_few_draws_decide_is_called_so(learned, tmp_path):
    folder = tmp_path / "spoiled"
    shutil.copytree(learned, folder)
    state = torch.load(folder / "best.pt", weights_only=True)
    names = [name for name in state["pair"] if "to_content" in name and name.endswith("bias")]
    size = state["pair"][names[0]].numel() // 2
    state["pair"][names[0]][size:] = -30.0  # posteriors far narrower than the priors: heavy tails
    torch.save(state, folder / "best.pt")
    process = run("evaluate.py", folder, *changed(OWN_ONLY, "--particles", 400))
    own = evaluation(folder)["scores"]["own"]
    assert not own["trustworthy"] and own["pareto_k_limit"] == pytest.approx(1 - 1 / math.log10(400))
    assert "WARNING: the score is unreliable: k-hat is above 0.62 for" in process.stdout
    assert "(lower bound, k-hat > 0.62)" in process.stdout
    assert "--gaps" in process.stdout


@pytest.mark.usefixtures("undrawn")
def test_temperatures_raise_a_score_of_few_draws(tmp_path):
    folder = trained(tmp_path / "vae", *TINY, "--model", "vae")
    scores = []
    for temperatures in (0, 10):
        process = run("evaluate.py", folder, *QUICK, "--gaps", "--refine-steps", 20, "--temperatures", temperatures)
        assert process.returncode == 0, process.stderr
        assert evaluation(folder)["settings"]["temperatures"] == temperatures
        scores.append(evaluation(folder)["scores"]["own"])
    assert scores[1]["log_likelihood_nats_per_image"] > scores[0]["log_likelihood_nats_per_image"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("model", "event"), [("vae", {"latent": 100}), ("two_layer_vae", {"key": 32, "latent": 100})])
def test_a_model_without_a_memory_is_not_said_to_have_one(model, event, tmp_path):
    folder = trained(tmp_path / model, *TINY, "--model", model)
    process = run("evaluate.py", folder, *QUICK)
    assert process.returncode == 0, process.stderr
    assert list(evaluation(folder)["scores"]) == ["own"]
    posterior = load_posterior(folder / "posterior.nc")["posterior"]
    assert {name: values.shape[2:] for name, values in posterior.data_vars.items()} == {
        name: (2, size) for name, size in event.items()
    }
    assert "ln p(x_t): this model has no memory" in process.stdout
    assert run("evaluate.py", folder, "--limit", 2, "--particles", 1).returncode == 0  # the limit of k-hat is -inf then
    assert "| M" not in process.stdout and "perfect memory" not in process.stdout
    assert "--content-bits: expected none" in refused(run("evaluate.py", folder, "--content-bits", 4))


def test_the_posterior_is_kept_for_arviz(evaluated):
    data = load_posterior(evaluated[0] / "posterior.nc")
    assert data["posterior"]["key"].shape[2:] == (2, 1, 3)
    assert data["sample_stats"]["log_weight"].shape == data["posterior"]["key"].shape[:3]


def test_an_interruption_leaves_the_old_scores_whole(evaluated, monkeypatch):
    folder, _ = evaluated
    before = (folder / "evaluation.json").read_bytes()

    def interrupted(*_arguments, **_others):
        raise KeyboardInterrupt

    monkeypatch.setattr(inference.importance.scoring, "summarize", interrupted)
    assert run("evaluate.py", folder, *OWN_ONLY, "--seed", 9).returncode == 130
    assert (folder / "evaluation.json").read_bytes() == before
    assert not list(folder.glob(".*.partial"))


def test_figures_of_the_scores_are_drawn_again_from_the_folder(evaluated, without_others):
    figures = evaluated[0] / "figures"
    before = {name: (figures / name).read_bytes() for name in SCORE_FIGURES}
    for name in SCORE_FIGURES:
        (figures / name).unlink()
    assert run("draw_figures.py", evaluated[0]).returncode == 0
    assert {name: (figures / name).read_bytes() for name in SCORE_FIGURES} == before


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--particles", 0], "--particles"),
        (["--limit", 0], "--limit"),
        (["--gaps", "--refine-steps", 0], "--refine-steps"),
        (["--temperatures", -1], "--temperatures"),
        (["--temperatures", 5], "temperatures: expected one normal to be all that is random of an image, found key"),
        (["--control-particles", -1], "--control-particles"),
        (["--classes-per-episode", 99], "--classes-per-episode"),
        (["--device", "abacus"], "--device"),
        (["--content-steps", -1], "--content-steps"),
        (["--content-bits", 0], "--content-bits"),
        (["--content-bits", 17], "--content-bits"),
    ],
)
def test_what_no_score_can_use_is_refused(learned, flags, named):
    before = sorted(path.name for path in learned.iterdir())
    assert named in refused(run("evaluate.py", learned, *flags))
    assert sorted(path.name for path in learned.iterdir()) == before


def test_a_folder_without_a_run_and_damaged_scores_are_refused(learned, without_others, tmp_path):
    assert str(tmp_path) in refused(run("evaluate.py", tmp_path))
    damaged = tmp_path / "run"
    shutil.copytree(learned, damaged)
    (damaged / "evaluation.json").write_text("{}")
    assert "evaluation.json" in refused(run("draw_figures.py", damaged))


def test_the_benchmark_compares_like_with_like_and_writes_what_it_prints(learned):
    process = run("benchmark_scoring.py", learned, "--particles", 200, "--repeats", 1)
    assert process.returncode == 0, process.stderr
    content = json.loads((learned / "benchmark_scoring.json").read_text())
    assert set(content["particle_images_per_second"]) == set(content["all_timings"])
    assert set(content["peak_mebibytes_by_particles"]) == {"100", "10000"}
    scorer = content["particle_images_per_second"]["scorer"]
    assert f"{scorer:,.0f} particle-images per second" in process.stdout
