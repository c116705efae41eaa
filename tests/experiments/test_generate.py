"""generate.py, on a digits run that has learned to use its memory."""

from __future__ import annotations

import math
import re
import shutil

import pytest
import torch

import inference.runs.plots
import kpp_pyro.plots
from inference import load
from inference.metrics.coherence import summarize_coherence
from inference.metrics.generation import nearest
from inference.tracing import own_randomness
from kpp_pyro.distances import WRONG_PIXELS
from tests.experiments.learned import KINDS, LEARNED, assert_states, read_report
from tests.experiments.running import TINY, changed, refused, run, trained

QUICK = ["--samples", "40", "--memories", "3", "--clean-up", "2"]
FIGURES = {"coverage.png", "generation.png", "key_walk.png", "interpolation.png"}
SHARES = (
    "coverage_share",
    "coverage_of_other_episode_share",
    "novel_share",
    "novel_and_far_from_training_share",
)
DISTANCES = ("wrong_pixels_to_nearest_written", "wrong_pixels_to_nearest_training")
TEST_EPISODES = 23  # of 16 of the 360 test images


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "digits", *LEARNED)


@pytest.fixture(scope="module")
def generated(learned):
    process = run("generate.py", learned, *QUICK)
    assert process.returncode == 0, process.stderr
    return report(learned), process


@pytest.fixture
def copied(learned, tmp_path):
    """The run before anything was generated."""
    return shutil.copytree(learned, tmp_path / "copied", ignore=shutil.ignore_patterns("generate.json", *FIGURES))


@pytest.fixture
def without_others(monkeypatch):
    """No figures but those of generation are drawn again."""
    for name in ("plot_figures", "plot_memory_at_work"):
        monkeypatch.setattr(inference.runs.plots, name, lambda *_: {})


@pytest.fixture
def undrawn(monkeypatch):
    """No figures: drawing takes longer than generating."""
    monkeypatch.setattr(inference.runs.plots, "plot_generation_figures", lambda *_: {})


def report(folder):
    return read_report(folder / "generate.json")


@pytest.mark.usefixtures("generated")
def test_the_file_states_all_that_a_table_has_to_state(learned):
    assert_states(learned, "generate.json", {"memories": 3, "samples": 40, "clean_up": 2})


def test_numbers_agree_with_each_other(generated):
    content, _ = generated
    assert content["near_wrong_pixels"] == pytest.approx(content["written_to_nearest_training_wrong_pixels"] / 2)
    for result in content["results"].values():
        curve = result["coverage_by_samples"]
        assert len(curve) == 40 and curve == sorted(curve) and curve[-1] == pytest.approx(result["coverage_share"])
        for name in (*SHARES, *DISTANCES):
            assert math.isfinite(result[name]) and result[f"{name}_standard_error"] >= 0
        assert all(0 <= result[name] <= 1 for name in SHARES)
        assert result["novel_and_far_from_training_share"] <= result["novel_share"]
        for name in DISTANCES:
            counts = result[f"samples_by_{name}"]
            assert sum(counts) == 120
            assert sum(distance * n for distance, n in enumerate(counts)) / 120 == pytest.approx(result[name])


def test_samples_are_those_of_each_memory_against_its_own_images_and_the_next_episodes(generated, learned):
    """All numbers of keys of the prior again, from the images."""
    content, (opened, samples) = generated[0], (load(learned, "cpu"), 40)
    images, _ = next(opened.episodes.test.batches(4))
    training = opened.episodes.train.all_images()
    near = nearest(images[:3].flatten(0, 1), training, WRONG_PIXELS).distance.mean().item() / 2
    assert content["near_wrong_pixels"] == pytest.approx(near)
    found = {"prior": [], "cleaned_up": []}
    with own_randomness(0, torch.device("cpu")):
        for index in range(3):
            memory = opened.memory.write(images[index])
            drawn = opened.memory.generate(memory, samples).images
            found["prior"].append(drawn)
            found["cleaned_up"].append(opened.memory.recall(memory, drawn, 2)[-1].images)
    for kind, drawn in found.items():
        result = content["results"][kind]
        own = [nearest(drawn[index], images[index], WRONG_PIXELS) for index in range(3)]
        strange = [nearest(drawn[index], images[index + 1], WRONG_PIXELS) for index in range(3)]
        for name, of in (("coverage_share", own), ("coverage_of_other_episode_share", strange)):
            covered = [len(set(one.index[one.distance <= near].tolist())) / 16 for one in of]
            assert result[name] == pytest.approx(sum(covered) / 3)
        distances = torch.cat([one.distance for one in own])
        assert result["novel_share"] == pytest.approx((distances > near).double().mean().item())
        assert result["wrong_pixels_to_nearest_written"] == pytest.approx(distances.mean().item())
        to_training = nearest(torch.cat(drawn), training, WRONG_PIXELS).distance
        assert result["wrong_pixels_to_nearest_training"] == pytest.approx(to_training.mean().item())


def test_a_memory_brings_back_its_own_images_and_not_those_of_another(generated):
    for result in generated[0]["results"].values():
        assert result["coverage_share"] > result["coverage_of_other_episode_share"]
    prior, cleaned = (generated[0]["results"][kind] for kind in ("prior", "cleaned_up"))
    assert cleaned["wrong_pixels_to_nearest_written"] < prior["wrong_pixels_to_nearest_written"]


def test_what_is_printed_is_in_the_file(generated, learned):
    content, process = generated
    for stated in ("40 samples", "3 memories of test images of digits (static), T = 16", "1,600 scalars (allocate)"):
        assert stated in process.stdout
    meanings = {
        "coverage_share": "coverage",
        "coverage_of_other_episode_share": "by chance",
        "novel_share": "novelty",
        "novel_and_far_from_training_share": "no training image",
        "wrong_pixels_to_nearest_written": "nearest written image",
        "wrong_pixels_to_nearest_training": "nearest training image",
    }
    for name, meaning in meanings.items():
        (line,) = re.findall(rf"^.*{meaning}\D*  .*±.*$", process.stdout, flags=re.MULTILINE)
        scale = 100 if name in SHARES else 1
        printed = [float(number) for number in re.findall(r"[\d.]+", line)]
        results = [content["results"][kind] for kind in ("prior", "cleaned_up")]
        expected = [scale * result[key] for result in results for key in (name, f"{name}_standard_error")]
        assert printed == pytest.approx(expected, abs=0.051)
    near, training = content["near_wrong_pixels"], content["written_to_nearest_training_wrong_pixels"]
    assert f"Near: at most {near:.1f} wrong pixels" in process.stdout and f"({training:.1f})" in process.stdout
    for name in FIGURES:
        assert str(learned / "figures" / name) in process.stdout and (learned / "figures" / name).exists()


def test_the_seed_decides_and_numbers_and_split_can_be_chosen(copied, undrawn):
    flags = ["--samples", "12", "--memories", "2", "--clean-up", "1"]
    contents = []
    for more in ([], [], ["--seed", "1"], ["--split", "validation"]):
        assert run("generate.py", copied, *flags, *more).returncode == 0
        contents.append(report(copied))
    first, again, reseeded, validation = contents
    assert first == again
    assert len(first["results"]["prior"]["coverage_by_samples"]) == 12
    assert sum(first["results"]["prior"]["samples_by_wrong_pixels_to_nearest_written"]) == 24
    assert reseeded["results"] != first["results"] and reseeded["near_wrong_pixels"] == first["near_wrong_pixels"]
    assert validation["settings"]["split"] == "validation"
    assert validation["near_wrong_pixels"] != first["near_wrong_pixels"]


def test_figures_are_drawn_again_pixel_for_pixel(copied, without_others):
    assert run("generate.py", copied, *QUICK).returncode == 0
    before = {name: (copied / "figures" / name).read_bytes() for name in FIGURES}
    for name in FIGURES:
        (copied / "figures" / name).unlink()
    process = run("draw_figures.py", copied)
    assert process.returncode == 0, process.stderr
    assert {name: (copied / "figures" / name).read_bytes() for name in FIGURES} == before
    assert all(name in process.stdout for name in FIGURES)


def test_of_one_sample_of_one_memory_no_error_is_known(copied, undrawn):
    process = run("generate.py", copied, "--samples", 1, "--memories", 1, "--clean-up", 1)
    assert process.returncode == 0, process.stderr
    assert report(copied)["results"]["prior"]["coverage_share_standard_error"] is None
    assert "± ?" in process.stdout and "nan" not in process.stdout.lower()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--samples", 0], "--samples: expected at least 1, found 0"),
        (["--memories", 0], "--memories: expected at least 1, found 0"),
        (["--memories", TEST_EPISODES], f"--memories: expected at most {TEST_EPISODES - 1}, one less than the test "),
        (["--memories", 99, "--split", "validation"], r"--memories: expected at most \d+, one less than the valid"),
        (["--clean-up", 0], "--clean-up: expected at least 1, found 0"),
        (["--seed", -1], r"--seed: expected at least 0, found -1"),
        (["--seed", 2**70], "--seed"),
        (["--device", "abacus"], "--device"),
    ],
)
def test_what_cannot_be_generated_is_refused_and_leaves_nothing(copied, flags, named):
    before = sorted(copied.rglob("*"))
    assert re.search(named, refused(run("generate.py", copied, *flags)))
    assert sorted(copied.rglob("*")) == before and not (copied / "generate.json").exists()


def test_a_folder_without_a_run_and_damaged_numbers_are_refused(copied, without_others, tmp_path):
    sentence = refused(run("generate.py", tmp_path / "nowhere"))
    assert sentence == f"error: {tmp_path / 'nowhere'}: expected a run folder with config.json, found none"
    assert not (tmp_path / "nowhere").exists()
    (copied / "generate.json").write_text("{}")
    assert "generate.json" in refused(run("draw_figures.py", copied))


def generated_from(folder, *flags):
    """A tiny run of a kind, and everything that is generated from it."""
    process = run("generate.py", trained(folder, *TINY, *flags), "--samples", 5, "--memories", 2, "--clean-up", 1)
    assert process.returncode == 0, process.stderr
    for result in report(folder)["results"].values():
        assert all(math.isfinite(result[name]) for name in (*SHARES, *DISTANCES))
    return process


@pytest.mark.parametrize("kind", ["several reads", "feed forward", "single images"])
def test_memories_of_every_kind_of_run_are_generated_from(kind, tmp_path):
    generated_from(tmp_path / "run", *KINDS[kind])
    drawn = FIGURES - {"interpolation.png"} if kind == "single images" else FIGURES
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == drawn


def test_the_classes_of_an_episode_are_stated(tmp_path, undrawn):
    process = generated_from(tmp_path / "run", *KINDS["classes"])
    assert "T = 8 of 3 classes" in process.stdout
    assert report(tmp_path / "run")["settings"]["classes_per_episode"] == 3


# From the prior

SEMANTIC = ["--memory-prior", "autoregressive", "--episode-length", 4, "--classes-per-episode", 2]
FROM_PRIOR = ["--from-prior", "--memories", 3]
MEANINGS = {
    "wrong_pixels_within_episodes": "wrong pixels between images of one episode",
    "wrong_pixels_between_episodes": "wrong pixels between images of two episodes",
    "within_to_between_ratio": "their ratio",
    "nearest_wrong_pixels_within_episodes": "wrong pixels to the nearest of its own episode",
    "nearest_wrong_pixels_between_episodes": "wrong pixels to the nearest of another episode",
    "nearest_within_to_between_ratio": "their ratio, nearest",
    "wrong_pixels_to_nearest_training": "wrong pixels to the nearest training image",
}
SAMPLED_FIGURES = {"episodes_from_prior.png", "completion.png"}


@pytest.fixture(scope="module")
def semantic(tmp_path_factory):
    """A tiny run that has a prior of memories, and what was sampled from it."""
    folder = trained(tmp_path_factory.mktemp("runs") / "semantic", *TINY, *SEMANTIC)
    process = run("generate.py", folder, *FROM_PRIOR, "--seed", 4)
    assert process.returncode == 0, process.stderr
    return folder, process


def test_episodes_from_the_prior_stand_beside_real_ones(semantic):
    """All numbers again, from the images; and those that are printed are in the file."""
    folder, process = semantic
    content, opened = read_report(folder / "from_prior.json"), load(folder, "cpu")
    assert content["settings"]["memories"] == 3 and content["settings"]["memory_prior"] == "autoregressive"
    assert "3 memories from the prior (autoregressive)" in process.stdout and "T = 4 of 2 classes" in process.stdout
    trained_memory, real = opened.memory, opened.episodes.test.whole(3)
    episodes = {
        "sampled": trained_memory.read_written(trained_memory.sample_memory(4, 3, seed=4)).images,
        "read_back": trained_memory.read_written(trained_memory.write(real, seed=4)).images,
        "real": real,
    }
    training = opened.episodes.train.all_images()
    assert content["results"] == {
        name: pytest.approx(summarize_coherence(images, training, WRONG_PIXELS)) for name, images in episodes.items()
    }
    lines = {line[:50].strip(): line[50:] for line in process.stdout.splitlines() if "±" in line[50:]}
    for name, meaning in MEANINGS.items():
        printed = [float(number) for number in re.findall(r"[\d.]+", lines[meaning])]
        results = [content["results"][kind] for kind in episodes]
        expected = [result[key] for result in results for key in (name, f"{name}_standard_error")]
        assert printed == pytest.approx(expected, abs=0.00051 if "ratio" in name else 0.051)
    assert not (folder / "generate.json").exists()


def test_figures_of_sampled_episodes_are_drawn_again_pixel_for_pixel(semantic, without_others):
    folder, process = semantic
    assert {path.name for path in (folder / "figures").iterdir()} == SAMPLED_FIGURES
    before = {name: (folder / "figures" / name).read_bytes() for name in SAMPLED_FIGURES}
    assert all(str(folder / "figures" / name) in process.stdout for name in SAMPLED_FIGURES)
    again = run("draw_figures.py", folder)
    assert again.returncode == 0, again.stderr
    assert {name: (folder / "figures" / name).read_bytes() for name in SAMPLED_FIGURES} == before


def test_an_episode_is_completed_from_its_first_images(semantic, monkeypatch):
    shown, opened = [], load(semantic[0], "cpu")
    monkeypatch.setattr(kpp_pyro.plots, "plot_completion", lambda rows, _: shown.extend(rows))
    inference.runs.plots.plot_from_prior_figures(opened)
    real = opened.episodes.test.whole(3)
    assert [(len(given), len(sampled)) for given, sampled in shown] == [(1, 3), (2, 2)] * 3
    for index, (given, _) in enumerate(shown):
        assert torch.equal(given, real[index // 2, : len(given)])
    firsts = torch.stack([sampled[0] for _, sampled in shown]).flatten(1)
    assert len(firsts.unique(dim=0)) == len(shown)  # no two rows share their draws


@pytest.mark.parametrize("flags", [["--likelihood", "discretized_logistic"], ["--memory-prior", "standard_normal"]])
def test_any_prior_that_is_proper_is_sampled_and_of_one_episode_less_is_known(flags, tmp_path):
    folder = trained(tmp_path / "run", *TINY, *changed(SEMANTIC, *flags))
    process = run("generate.py", folder, "--from-prior", "--memories", 1, "--temperature", 0.5)
    assert process.returncode == 0, process.stderr
    assert ", temperature 0.5)" in process.stdout
    assert "± ?" in process.stdout and "nan" not in process.stdout.lower()
    name = "squared_error_per_dim" if "--likelihood" in flags else "wrong_pixels"
    for result in read_report(folder / "from_prior.json")["results"].values():
        assert result[f"{name.removesuffix('_per_dim')}_within_episodes"] > 0
        assert result["within_to_between_ratio"] is None


def test_a_temperature_is_of_memories_from_the_prior(copied):
    sentence = refused(run("generate.py", copied, "--temperature", 0.5))
    assert sentence == "error: --temperature: expected none without --from-prior, found 0.5"


def test_a_flat_prior_cannot_be_generated_from(copied):
    before = sorted(copied.rglob("*"))
    sentence = refused(run("generate.py", copied, "--from-prior"))
    found = "memory prior: expected one that can be sampled, such as autoregressive, found flat"
    assert sentence == f"error: {copied}: {found}"
    assert sorted(copied.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--memories", 200], r"--memories: expected at most \d+, the test episodes without padding, found 200"),
        (["--samples", 10], "--samples: expected none with --from-prior, found 10"),
        (["--clean-up", 1], "--clean-up: expected none with --from-prior, found 1"),
    ],
)
def test_what_cannot_be_sampled_from_the_prior_is_refused(semantic, flags, named):
    before = (semantic[0] / "from_prior.json").read_bytes()
    assert re.search(named, refused(run("generate.py", semantic[0], "--from-prior", *flags)))
    assert (semantic[0] / "from_prior.json").read_bytes() == before
