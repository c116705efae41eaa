"""denoise.py and generate.py on a tiny run of grey levels: their reports, tables and figures."""

from __future__ import annotations

import json
import math

import pytest
import torch

from inference import load
from inference.metrics.denoising import denoise
from kpp_pyro.corruptions import corrupt
from kpp_pyro.distances import psnr_db
from kpp_pyro.errors import InputError
from tests.experiments.running import TINY, run, trained

LEVELS = ["--dataset", "digits", "--likelihood", "discretized_logistic"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "digits", *TINY, *LEVELS)


@pytest.fixture(scope="module")
def denoised(folder):
    flags = ["--corruption", "gaussian", "mask", "--strength", 0.2, "--limit", 40, "--steps", 2]
    process = run("denoise.py", folder, *flags)
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "denoise.json").read_text()), process.stdout


@pytest.fixture(scope="module")
def generated(folder):
    process = run("generate.py", folder, "--samples", 20, "--memories", 2, "--clean-up", 1)
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "generate.json").read_text()), process.stdout


def test_errors_are_those_of_the_first_images(folder, denoised):
    opened = load(folder, "cpu")
    images = next(opened.episodes.test.batches(8))[0]
    corrupted = corrupt(images, "gaussian", 0.2, torch.Generator().manual_seed(0))
    errors = denoise(opened.memory, images, corrupted, 2)
    result = denoised[0]["results"][0]
    for kind, of in (("recall", errors.recall), ("memoryless", errors.memoryless), ("nearest_written", errors.nearest)):
        expected = of.distance.flatten(1)[:, :40].double().mean(1).tolist()
        assert result[kind]["squared_error_per_dim"] == pytest.approx(expected, rel=1e-4)
    assert result["cue_squared_error_per_dim"] == pytest.approx(errors.cue.flatten()[:40].mean().item(), rel=1e-4)


def test_psnr_stands_beside_every_squared_error_and_wrong_pixels_nowhere(folder, denoised, generated):
    for result in denoised[0]["results"]:
        assert result["cue_psnr_db"] == pytest.approx(psnr_db(result["cue_squared_error_per_dim"]))
        for kind in ("recall", "memoryless"):
            errors = result[kind]
            assert errors["psnr_db"] == pytest.approx([psnr_db(error) for error in errors["squared_error_per_dim"]])
            assert min(errors["psnr_db_standard_error"]) > 0
    for name, report in (("denoise", denoised), ("generate", generated)):
        assert "wrong" not in (folder / f"{name}.json").read_text() and "wrong" not in report[1]


def test_tables_show_the_errors_of_the_reports(denoised, generated):
    content, table = denoised
    assert content["results"][0]["nearest_written"]["psnr_db"] == [None] and " exact " in table  # at so little noise
    assert "PSNR of the mean error, dB" in table and "squared error per dim" in table
    assert f"{content['results'][0]['recall']['psnr_db'][-1]:.2f} ± " in table
    assert f"{content['results'][0]['recall']['squared_error_per_dim'][-1]:.4f} ± " in table
    content, table = generated
    assert f"Near: at most {content['near_squared_error']:.4f} squared error per dimension" in table


def test_distances_of_samples_agree_with_each_other(generated):
    content, _ = generated
    assert content["near_squared_error"] == pytest.approx(content["written_to_nearest_training_squared_error"] / 2)
    for result in content["results"].values():
        for of in ("written", "training"):
            counts, mean = (result[f"{start}squared_error_to_nearest_{of}"] for start in ("samples_by_", ""))
            assert sum(counts) == 40
            assert sum(0.001 * place * n for place, n in enumerate(counts)) / 40 == pytest.approx(mean, abs=0.0005)
            assert math.isfinite(result[f"squared_error_to_nearest_{of}_standard_error"])


@pytest.mark.usefixtures("denoised", "generated")
def test_figures_are_drawn(folder):
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names >= {"denoise_curves.png", "denoise_gaussian.png", "denoise_mask.png", "coverage.png"}


def test_reports_without_their_errors_are_refused(folder, denoised, generated):
    opened = load(folder, "cpu").folder
    del denoised[0]["results"][0]["recall"]["squared_error_per_dim"]
    opened.denoising.write_text(json.dumps(denoised[0]))
    with pytest.raises(InputError, match=r"denoise.py, found no results.0.recall.squared_error_per_dim$"):
        opened.read_denoising()
    del generated[0]["near_squared_error"]
    opened.generation.write_text(json.dumps(generated[0]))
    with pytest.raises(InputError, match=r"generate.py, found no near_squared_error$"):
        opened.read_generation()
