"""A run whose contents are refined: it is trained as without, and looked at with what is refined."""

from __future__ import annotations

import torch

from kpp_pyro.files.checkpoint import load_checkpoint
from kpp_pyro.files.run_folder import RunFolder
from tests.experiments.running import TINY, changed, trained

FLAGS = changed(TINY, "--precision", "float32", "--steps", 4, "--evaluate-every", 2, "--episode-length", 16)


def records(folder, split):
    kept = RunFolder.open(folder).read_metrics()
    return [record for record in kept if record["split"] == split]


def test_training_is_bit_for_bit_the_same_and_validation_better(tmp_path):
    """The look in the middle leaves no trace: neither in the random state, nor in the mode, nor in gradients."""
    folders = [
        trained(tmp_path / "without", *FLAGS),
        trained(tmp_path / "with", *FLAGS, "--content-steps", 5),
    ]
    without, refined = (load_checkpoint(folder / "checkpoint.pt") for folder in folders)
    assert without["pair"].keys() == refined["pair"].keys()
    for name, value in without["pair"].items():
        assert torch.equal(value, refined["pair"][name]), name
    looks = [records(folder, "validation") for folder in folders]
    assert [[record["step"] for record in look] for look in looks] == [[2, 4], [2, 4]]
    for one, other in zip(*looks, strict=True):
        assert other["reconstruction_nats_per_image"] > one["reconstruction_nats_per_image"] + 0.1
    training = [records(folder, "train")[-1]["annealed_elbo_nats_per_image"] for folder in folders]
    assert training[0] == training[1]
