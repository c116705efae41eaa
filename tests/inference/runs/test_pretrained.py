"""Weights that come with the project: still as good as stated, small, and unpacked as they were packed."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from safetensors.torch import load_file

from experiments.evaluate import main as evaluate
from experiments.pack_weights import main as pack_weights
from inference.importance.scoring import ScoringPlan, score_episodes
from inference.runs.load import load, read_run
from inference.runs.pretrained import PRETRAINED, pack, pretrained_names, unpack
from kpp_pyro.errors import InputError
from kpp_pyro.files.checkpoint import load_checkpoint

IMAGES = Path(__file__).parent / "pretrained_images"  # the first test images: 256 binarized ones, 64 in colour; T = 32
LARGEST_BYTES = 10_000_000
PARTICLES = 20  # where k-hat is low, 20 draws are 0.01 nats from 1,000
TOLERANCE_NATS = 0.05  # of the mean of 256 images: draws, and float32 in place of bfloat16
TOLERANCE_BITS = 0.02  # per dimension, of 64 images in colour, whose k-hat is high: 20 draws, and not 100

pytestmark = pytest.mark.parametrize("name", pretrained_names())


def stored_images(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Episodes, (B, T, C, H, W), and whether their images count, (B, T)."""
    with np.load(IMAGES / f"{name.split('_')[0]}.npz") as file:  # a name begins with its data set's
        if "levels" in file:
            return torch.from_numpy(file["levels"]) / 255, torch.from_numpy(file["counted"])
        shape = tuple(file["shape"])
        pixels = np.unpackbits(file["pixels"], count=int(np.prod(shape))).reshape(shape)
    return torch.from_numpy(pixels.astype(np.float32)), torch.ones(shape[:2], dtype=torch.bool)


def test_weights_still_give_the_number_that_is_stated(name, tmp_path):
    pair = load(unpack(name, tmp_path), "cpu", precision="float32").pair
    images, counted = stored_images(name)
    assert pair.model.image_shape == tuple(images.shape[2:])
    plan = ScoringPlan(particles=PARTICLES, control_particles=0)
    with pyro.validation_enabled(False):
        found = score_episodes(pair.model, pair.guide, [(images, counted)], plan).own.log_likelihood
    stated = json.loads((PRETRAINED / name / "evaluation.json").read_text())
    colour = pair.model.image_shape[0] == 3
    assert stated["settings"]["particles"] >= (100 if colour else 1000) and stated["settings"]["seed"] == 0
    of_these = torch.tensor(stated["per_image"]["log_likelihood_nats"][: found.numel()])
    tolerance = TOLERANCE_BITS * math.log(2) * images[0, 0].numel() if colour else TOLERANCE_NATS
    assert found.mean().item() == pytest.approx(of_these.mean().item(), abs=tolerance)
    assert np.corrcoef(found, of_these)[0, 1] > 0.98  # image by image too


def test_weights_are_small(name):
    assert (PRETRAINED / name / "weights.safetensors").stat().st_size <= LARGEST_BYTES


def test_weights_survive_packing_again(name, tmp_path):
    first = unpack(name, tmp_path)
    (first / "evaluation.json").write_text("mine")
    assert unpack(name, tmp_path) == first and (first / "evaluation.json").read_text() == "mine"
    pack(first, tmp_path / "packed", content_steps=3)
    packed, shipped = (load_file(folder / "weights.safetensors") for folder in (tmp_path / "packed", PRETRAINED / name))
    assert packed.keys() == shipped.keys() and all(torch.equal(packed[key], shipped[key]) for key in shipped)
    shutil.copy(first / "best.pt", tmp_path / "packed")
    _, config = read_run(tmp_path / "packed")
    assert config.program.content_steps == 3
    assert load(first, "cpu").memory.image_shape == stored_images(name)[0].shape[2:]


def test_bad_input_is_refused_and_leaves_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--pretrained nobody: expected one of "):
        evaluate(["--pretrained", "nobody"])
    for arguments, found in ([], "neither"), (["a_run", "--pretrained", name], "both"):
        with pytest.raises(InputError, match=f"expected one of the two, found {found}"):
            evaluate(arguments)
    with pytest.raises(InputError, match="--content-steps: expected at least 0, found -1"):
        pack_weights([str(unpack(name, tmp_path / "made")), "--out", "packed", "--content-steps", "-1"])
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    checkpoint = load_checkpoint(tmp_path / "made" / name / "best.pt")
    assert all(tensor.dtype == torch.float32 for tensor in checkpoint["pair"].values())
