"""Whether a configuration fits into the memory of the machine, before anything large is made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from inference.objectives import OBJECTIVES, make_objective
from inference.runs.config import Config
from inference.runs.rules import has_blocks
from inference.runs.trainer import Loss, annealed, bound_loss
from inference.tracing import own_randomness
from kpp_pyro.config_part import flag
from kpp_pyro.errors import InputError
from models.pair import Pair

_FLOAT = 4  # bytes
_TRAINED = 4 * _FLOAT  # bytes of a parameter, its gradient and Adam's two moments
_MEASURED_PARTICLES = 2
_FEWEST_PIXELS = 64  # of an image of any data set


@dataclass(frozen=True)
class _Need:
    """Bytes that a configuration needs at least, and the fields that they grow with."""

    what: str
    bytes: int
    fields: tuple[str, ...]


def require_capacity(config: Config, device: torch.device) -> None:
    """Raise InputError, naming a flag, for sizes that alone exceed the memory of the device.

    The bytes are a lower bound: of parameters in training, and of the memories and images of a step.
    """
    available = memory_bytes(device)
    for need in _needs(config):
        if need.bytes > available:
            raise InputError(_sentence(config, need, available))


def require_step_capacity(config: Config, pair: Pair, processes: int = 1) -> None:
    """Raise InputError, naming a flag, if the activations of a training step exceed the memory of the device.

    They are measured on one episode of black images, with few particles, and grow in proportion to both.
    """
    training, particles = config.training, min(config.training.particles, _MEASURED_PARTICLES)
    alpha = training.renyi_alpha if OBJECTIVES[training.objective].takes_alpha else 0.0
    objective = make_objective(training.objective, particles=particles, alpha=alpha)
    length = config.data.episode_length + training.left_out
    episode = torch.zeros(1, length, *pair.model.image_shape, dtype=torch.float32, device=pair.device)
    of_one = saved_bytes(annealed(bound_loss(pair, objective, training.left_out)), episode)
    total = of_one * (training.particles // particles) * (training.episodes_per_step // processes)
    need = _Need("the activations of a step", total, ("episodes_per_step", "episode_length", "particles"))
    available = memory_bytes(pair.device)
    if need.bytes > available:
        raise InputError(_sentence(config, need, available))


def saved_bytes(loss: Loss, episode: Tensor) -> int:
    """Bytes of the tensors that the gradient of a loss needs; the random state is left unchanged."""
    saved: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with own_randomness(0, episode.device), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss(episode, {})
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def memory_bytes(device: torch.device) -> int:
    """Memory of a device, used or not, in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def _needs(config: Config) -> Iterator[_Need]:
    network, memory, data, training = config.network, config.memory, config.data, config.training
    images = training.episodes_per_step * (data.episode_length + training.left_out) * training.particles
    of_images = ("episodes_per_step", "episode_length", "left_out", "particles")
    latent = memory.latent_size or memory.read_size
    # An encoder and a decoder, each of at least one matrix in a block; and a matrix from and to the latent.
    yield _Need("the parameters", 2 * network.depth * network.width**2 * _TRAINED, ("depth", "width"))
    yield _Need("the parameters", 2 * latent * network.width * _TRAINED, ("latent_size", "width"))
    yield _Need("the images of a step", images * _FEWEST_PIXELS * _FLOAT, of_images)
    yield _Need("the latents of a step", images * latent * _FLOAT, ("latent_size", *of_images))
    if has_blocks(config):
        scalars = math.prod(memory.layout.shape)
        sides: tuple[str, ...] = ("memory_channels", "memory_height", "memory_width")
    else:
        scalars, sides = config.program.memory_rows * latent, ("memory_rows", "latent_size")
    memories = training.episodes_per_step * scalars * _FLOAT
    yield _Need("the memories of a step", memories, (*sides, "episodes_per_step"))


def _sentence(config: Config, need: _Need, available: int) -> str:
    """The sentence about the field that is largest in comparison with its default."""
    values, defaults = config.flat(), config.defaults()
    given = [name for name in need.fields if values[name]]
    name = max(given, key=lambda field: values[field] / (defaults[field] or 1))
    return (
        f"{flag(name)}: expected {need.what} to fit into the {available / 1e9:,.0f} GB of this machine, "
        f"found {values[name]}, with which they take {need.bytes / 1e9:,.0f} GB or more"
    )
