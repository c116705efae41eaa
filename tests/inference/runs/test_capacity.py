"""Sizes that the machine cannot hold: the estimate against the bytes that a step really keeps."""

from __future__ import annotations

import pytest
import torch

from inference import Config, build
from inference.objectives import make_objective
from inference.runs import capacity
from inference.runs.capacity import require_parameter_capacity, require_training_capacity, step_bytes
from inference.runs.trainer import annealed
from kpp_pyro.errors import InputError

CPU = torch.device("cpu")


def kept_bytes(config: Config) -> int:
    """Bytes that the graph of a whole step keeps, beside the parameters."""
    pair, training = build(config, (1, 16, 16)), config.training
    parameters = {parameter.untyped_storage().data_ptr() for parameter in pair.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    objective = make_objective(training.objective, particles=training.particles)
    loss = annealed(objective(pair.model, pair.guide))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(torch.zeros(training.episodes_per_step, config.data.images_per_episode, 1, 16, 16), {})
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in parameters)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"write": "feed_forward"},
        {"objective": "iwae", "particles": 12},
        {"model": "vae"},
        {"model": "two_layer_vae"},
        {"model": "dynamic_kanerva_machine"},
        {"model": "pseudo_inverse_memory", "objective": "iwae", "particles": 5},
    ],
)
def test_the_activations_of_a_step_are_extrapolated_from_one_episode(changes, precision):
    config = Config.preset(
        **{"episode_length": 6, "episodes_per_step": 7, "width": 32, "precision": precision, **changes}
    )
    estimate = step_bytes(config, build(config, (1, 16, 16)))
    assert 0.6 < estimate / kept_bytes(config) < 1.6
    of_one = config.replace(episodes_per_step=1)
    assert 0.6 < step_bytes(config, build(config, (1, 16, 16)), processes=7) / kept_bytes(of_one) < 1.6


def test_what_does_not_fit_is_named_by_the_flag_that_is_largest(monkeypatch):
    monkeypatch.setattr(capacity, "memory_bytes", lambda _: 10**9)
    many = Config.preset(episodes_per_step=90_000)
    with pytest.raises(InputError, match=r"^--episodes-per-step: expected the latents of a step to fit into the 1 GB"):
        require_training_capacity(many, CPU)
    require_training_capacity(many, CPU, processes=100)
    require_parameter_capacity(many, CPU)  # scores a run that was trained elsewhere
    with pytest.raises(InputError, match=r"^--width: expected the parameters to fit into the 1 GB .*, found 20000"):
        require_parameter_capacity(Config.preset(width=20_000), CPU)


@pytest.mark.parametrize("channels", [90, 10_000])
def test_the_code_of_large_blocks_is_counted_with_what_its_training_needs(channels, monkeypatch):
    monkeypatch.setattr(capacity, "memory_bytes", lambda _: 10**9)
    config = Config.preset(dataset="cifar10", memory_channels=channels)  # a matrix of (100 channels)^2 numbers
    with pytest.raises(InputError, match=rf"^--memory-channels: expected the parameters to fit .*, found {channels}"):
        require_training_capacity(config, CPU)
    require_training_capacity(Config.preset(dataset="cifar10", memory_channels=16), CPU)
