"""denoise.py, on a digits run that has learned to use its memory."""

from __future__ import annotations

import math
import re
import shutil

import pytest
import torch

import experiments.denoise
import inference.runs.plots
from experiments.shared.denoise_table import describe_denoising
from inference import load
from inference.metrics.denoising import denoise
from kpp_pyro.corruptions import corrupt
from tests.experiments.learned import KINDS, LEARNED, assert_states, read_report
from tests.experiments.running import TINY, refused, run, trained

MASK = ["--corruption", "mask", "--strength", "0.3"]
QUICK = ["--limit", "20", "--steps", "3"]
CORRUPTIONS = ("salt_and_pepper", "speckle", "poisson", "gaussian", "mask")
QUANTITIES = ("wrong_pixels_per_image", "nats_per_image", "found_share")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "digits", *LEARNED)


@pytest.fixture(scope="module")
def denoised(learned):
    """All corruptions, as by default: the report, the finished script, and the figures."""
    process = run("denoise.py", learned, *QUICK)
    assert process.returncode == 0, process.stderr
    return report(learned), process, {path.name: path.read_bytes() for path in (learned / "figures").iterdir()}


@pytest.fixture
def copied(learned, tmp_path):
    """The run before anything was denoised."""
    return shutil.copytree(learned, tmp_path / "copied", ignore=shutil.ignore_patterns("denoise*"))


@pytest.fixture
def without_others(monkeypatch):
    """No figures but those of recall, and of the memory at work, are drawn again."""
    monkeypatch.setattr(inference.runs.plots, "plot_figures", lambda *_: {})


def report(folder):
    return read_report(folder / "denoise.json")


def by_case(content):
    return {(result["corruption"], result["strength"]): result for result in content["results"]}


@pytest.mark.usefixtures("denoised")
def test_the_file_states_all_that_a_table_has_to_state(learned):
    assert_states(learned, "denoise.json", {"images": 20, "steps": 3})


def test_all_corruptions_are_tried_from_weak_to_strong(denoised):
    content, _, figures = denoised
    strengths = {corruption: [s for other, s in by_case(content) if other == corruption] for corruption in CORRUPTIONS}
    assert list(dict.fromkeys(corruption for corruption, _ in by_case(content))) == list(CORRUPTIONS)
    for corruption, of in strengths.items():
        assert len(of) >= 3 and of == sorted(of)
        cues = [by_case(content)[corruption, strength]["cue_wrong_pixels_per_image"] for strength in of]
        assert min(cues) > 0 and (corruption == "poisson" or cues == sorted(cues))
        assert f"denoise_{corruption}.png" in figures
    assert "denoise_curves.png" in figures


def test_every_way_to_an_image_has_finite_errors_after_each_read(denoised):
    for result in denoised[0]["results"]:
        steps = {"recall": 3, "memoryless": 3, "nearest_written": 1}
        if result["corruption"] == "mask":
            steps["completion"] = 3
        else:
            assert result["completion"] is None
        for kind, number in steps.items():
            for name in QUANTITIES:
                values, errors = result[kind][name], result[kind][f"{name}_standard_error"]
                assert len(values) == len(errors) == number
                assert all(map(math.isfinite, [*values, *errors])) and min([*values, *errors]) >= 0
            assert max(result[kind]["found_share"]) <= 1
        iterating, recall = result["iterating"], result["recall"]
        change = recall["wrong_pixels_per_image"][-1] - recall["wrong_pixels_per_image"][0]
        assert iterating["change_in_wrong_pixels_per_image"] == pytest.approx(change)
        found = recall["found_share"][0] - iterating["drifted_share"] + iterating["rescued_share"]
        assert found == pytest.approx(recall["found_share"][-1])


def test_a_memory_knows_more_than_the_same_networks_without_it_and_less_than_the_images(denoised):
    for corruption, strength in (("salt_and_pepper", 0.5), ("speckle", 2.0)):
        result = by_case(denoised[0])[corruption, strength]
        own, without = (result[kind]["wrong_pixels_per_image"][0] for kind in ("recall", "memoryless"))
        assert result["nearest_written"]["wrong_pixels_per_image"][0] < own < without
    hole = by_case(denoised[0])["mask", 0.5]
    known, unknown = (hole[kind]["wrong_pixels_per_image"][-1] for kind in ("completion", "recall"))
    assert known < unknown


def test_errors_are_those_of_the_first_images(denoised, learned):
    opened = load(learned, "cpu")
    images, _ = next(opened.episodes.test.batches(8))
    images = images[:2]  # 20 images, of two episodes
    corrupted = corrupt(images, "mask", 0.25, torch.Generator().manual_seed(0))
    errors = denoise(opened.memory, images, corrupted, 3)
    result = by_case(denoised[0])["mask", 0.25]
    for kind, of in (("recall", errors.recall), ("completion", errors.completion), ("nearest_written", errors.nearest)):
        for name, values in zip(QUANTITIES, (of.distance, of.nats, of.found), strict=True):
            expected = values.flatten(1)[:, :20].double().mean(1).tolist()
            assert result[kind][name] == pytest.approx(expected, rel=1e-4)
    cues = errors.cue.flatten()[:20].double().mean().item()
    assert result["cue_wrong_pixels_per_image"] == pytest.approx(cues)


def test_what_is_printed_is_in_the_file(denoised, learned):
    content, process, figures = denoised
    head, *parts = process.stdout.split("\n\n")
    for stated in (
        "20 test images of digits (static)",
        "T = 16",
        "1,600 scalars (allocate)",
        "seed 0",
    ):
        assert stated in head
    numbers = r"(\S+) ([\d.]+)(, hole known)? +(.*)"
    for part, quantity in zip(parts[:2], QUANTITIES, strict=False):
        rows = re.findall(rf"^{numbers}$", "\n".join(part.splitlines()[1:]), flags=re.MULTILINE)
        assert len(rows) == len(content["results"]) + 3  # those of the mask once more
        for corruption, strength, known, row in rows:
            result = by_case(content)[corruption, float(strength)]
            errors = result["completion" if known else "recall"]
            expected = [result["cue_wrong_pixels_per_image"]] if quantity == "wrong_pixels_per_image" else []
            expected += [result["nearest_written"][quantity][0], result["memoryless"][quantity][0]]
            for pair in zip(errors[quantity], errors[f"{quantity}_standard_error"], strict=True):
                expected += pair
            assert [float(number) for number in re.findall(r"[\d.]+", row)] == pytest.approx(expected, abs=0.051)
    for corruption, strength, _, row in re.findall(rf"^{numbers}$", parts[2], flags=re.MULTILINE):
        result = by_case(content)[corruption, float(strength)]
        found, iterating = result["recall"]["found_share"], result["iterating"]
        shares = [found[0], found[-1], iterating["drifted_share"], iterating["rescued_share"]]
        assert [float(share) / 100 for share in re.findall(r"([\d.]+)%", row)] == pytest.approx(shares, abs=6e-4)
    for name in figures:
        assert str(learned / "figures" / name) in process.stdout


def test_the_seed_decides_and_corruptions_strengths_split_and_reads_can_be_chosen(copied, monkeypatch):
    flags = ["--corruption", "mask", "speckle", "--strength", "0.3", "0.7", "--limit", "9", "--steps", "2"]
    contents = []
    for more in ([], [], ["--seed", "1"], ["--split", "validation"]):
        assert run("denoise.py", copied, *flags, *more).returncode == 0
        contents.append(report(copied))
        monkeypatch.setattr(inference.runs.plots, "plot_denoising_figures", lambda *_: {})  # they are there
    first, again, reseeded, validation = contents
    assert first == again
    assert list(by_case(first)) == [("mask", 0.3), ("mask", 0.7), ("speckle", 0.3), ("speckle", 0.7)]
    assert (first["settings"]["images"], first["settings"]["steps"]) == (9, 2)
    assert len(first["results"][0]["recall"]["nats_per_image"]) == 2
    assert (reseeded["settings"]["seed"], validation["settings"]["split"]) == (1, "validation")
    for other in (reseeded, validation):
        for case, result in by_case(other).items():
            assert result["cue_wrong_pixels_per_image"] != by_case(first)[case]["cue_wrong_pixels_per_image"]
    names = {path.name for path in (copied / "figures").glob("denoise*")}
    assert names == {"denoise_curves.png", "denoise_mask.png", "denoise_speckle.png"}


def test_a_corruption_is_the_same_whatever_others_are_denoised_beside_it(denoised, copied):
    assert run("denoise.py", copied, *QUICK, "--corruption", "poisson").returncode == 0
    for case, result in by_case(report(copied)).items():
        assert case[0] == "poisson" and result == by_case(denoised[0])[case]


def test_figures_are_drawn_again_pixel_for_pixel(copied, without_others):
    """With the memory at work, which is drawn from the run alone."""
    assert run("denoise.py", copied, *QUICK, *MASK).returncode == 0
    assert run("draw_figures.py", copied).returncode == 0
    before = {path.name: path.read_bytes() for path in (copied / "figures").iterdir()}
    assert before.keys() >= {"denoise_curves.png", "denoise_mask.png", "memory_at_work.png"}
    for name in before:
        (copied / "figures" / name).unlink()
    process = run("draw_figures.py", copied)
    assert process.returncode == 0, process.stderr
    assert {path.name: path.read_bytes() for path in (copied / "figures").iterdir()} == before
    assert all(name in process.stdout for name in before)


def test_of_one_image_no_error_is_known_and_nothing_is_certain(copied):
    process = run("denoise.py", copied, "--limit", 1, "--steps", 2, *MASK)
    assert process.returncode == 0, process.stderr
    (result,) = report(copied)["results"]
    assert result["recall"]["wrong_pixels_per_image_standard_error"] == [None, None]
    assert "± ?" in process.stdout and "nan" not in process.stdout.lower()
    assert process.stdout.count(": nowhere") == 4  # neither help nor harm, in pixels nor in nats


def changed(result, change, error, nats=(0.0, 1.0), found=(0.5, 0.5), drifted=0.0, rescued=0.0):
    """A result whose iterated reading has another outcome."""
    iterating = {
        "change_in_wrong_pixels_per_image": change,
        "change_in_wrong_pixels_standard_error": error,
        "change_in_nats_per_image": nats[0],
        "change_in_nats_standard_error": nats[1],
        "drifted_share": drifted,
        "rescued_share": rescued,
    }
    recall = {**result["recall"], "found_share": [found[0], 0.0, found[1]]}
    return {**result, "recall": recall, "iterating": {**result["iterating"], **iterating}}


def test_what_iterating_does_is_said_where_it_is_certain_by_two_standard_errors(denoised):
    content = denoised[0]
    noisy, noisier, speckled, poisson = (content["results"][place] for place in (0, 1, 5, 8))
    results = [
        changed(noisy, -2.1, 1.0, (30.0, 10.0), (0.875, 0.9), drifted=0.05, rescued=0.075),
        changed(noisier, 1.9, 1.0, drifted=0.25, rescued=0.125),
        changed(speckled, 2.1, 1.0, (-5.0, 2.0)),
        changed(poisson, 0.0, 0.0),
    ]
    text = describe_denoising({**content, "results": results})
    assert "3 reads against one, by more than 2 standard errors:" in text
    assert "  helps in wrong pixels: salt_and_pepper 0.1 (-2.10 ± 1.00)\n" in text
    assert "  harms in wrong pixels: speckle 0.5 (+2.10 ± 1.00)\n" in text
    assert "  helps in nats: speckle 0.5 (-5.00 ± 2.00)\n" in text
    assert "  harms in nats: salt_and_pepper 0.1 (+30.00 ± 10.00)\n" in text
    assert "At most 25.0% (salt_and_pepper 0.2) of the images drift" in text
    steady = describe_denoising({**content, "results": [changed(noisy, 0.0, 0.0)]})
    assert "No image drifts" in steady
    assert re.search(r"^salt_and_pepper 0.1 +87.5% +90.0% +5.0% +7.5%$", text, flags=re.MULTILINE)


def test_figures_of_corruptions_that_were_not_asked_for_again_are_removed(copied):
    assert run("denoise.py", copied, "--limit", 2, "--steps", 1, *MASK).returncode == 0
    left = {path.name for path in (copied / "figures").glob("denoise_*.png")}
    assert left == {"denoise_curves.png", "denoise_mask.png"}


def test_a_run_that_cannot_be_written_to_is_refused_before_any_work(copied, monkeypatch):
    monkeypatch.setattr(experiments.denoise, "report", lambda *_: pytest.fail("work was done"))
    shutil.rmtree(copied / "figures")
    (copied / "figures").write_text("a file where a folder should be")
    assert "figures: expected a folder that can be written to" in refused(run("denoise.py", copied))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--strength", 0], "--strength of salt_and_pepper: expected 1e-06 to 1, found 0.0"),
        (["--corruption", "salt_and_pepper", "--strength", 0.2, 2], "--strength of salt_and_pepper: .* found 2.0"),
        (
            ["--corruption", "speckle", "--strength", "nan"],
            r"--strength of speckle: expected 1e-06 to 1e\+06, found nan",
        ),
        (["--steps", 0], "--steps: expected at least 1, found 0"),
        (["--limit", 0], "--limit: expected at least 1, found 0"),
        (["--seed", -1], r"--seed: expected at least 0, found -1"),
        (["--seed", 2**63], "--seed"),
        (["--device", "abacus"], "--device"),
    ],
)
def test_what_cannot_be_denoised_is_refused_and_leaves_nothing(copied, flags, named):
    before = sorted(copied.rglob("*"))
    assert re.search(named, refused(run("denoise.py", copied, *flags)))
    assert sorted(copied.rglob("*")) == before and not (copied / "denoise.json").exists()


def test_an_unknown_corruption_is_answered_with_those_that_there_are(copied):
    sentence = refused(run("denoise.py", copied, "--corruption", "mask", "rain"))
    assert sentence == f"error: --corruption: expected one of {', '.join(CORRUPTIONS)}, found 'rain'"
    assert "did you mean mask" in refused(run("denoise.py", copied, "--corruption", "maks"))
    assert not (copied / "denoise.json").exists()


def test_a_folder_without_a_run_and_damaged_errors_are_refused(copied, without_others, tmp_path):
    sentence = refused(run("denoise.py", tmp_path / "nowhere"))
    assert sentence == f"error: {tmp_path / 'nowhere'}: expected a run folder with config.json, found none"
    assert not (tmp_path / "nowhere").exists()
    (copied / "denoise.json").write_text("{}")
    assert "denoise.json" in refused(run("draw_figures.py", copied))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_is_denoised(kind, tmp_path):
    folder = trained(tmp_path / "run", *TINY, *KINDS[kind])
    process = run("denoise.py", folder, "--limit", 3, "--steps", 2, *MASK)
    assert process.returncode == 0, process.stderr
    content = report(folder)
    (result,) = content["results"]
    for errors in (result["recall"], result["completion"], result["memoryless"], result["nearest_written"]):
        assert all(math.isfinite(value) for values in errors.values() for value in values)
    assert {path.name for path in (folder / "figures").iterdir()} == {"denoise_curves.png", "denoise_mask.png"}
    assert ("5 blocks per image" in process.stdout) == (kind == "several reads")
    assert ("T = 8 of 3 classes" in process.stdout) == (kind == "classes")
