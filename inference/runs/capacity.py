"""Whether a configuration fits into the memory of the machine, before anything large is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from inference.runs.config import Config
from inference.runs.rules import has_blocks
from inference.runs.trainer import annealed
from inference.tracing import own_randomness
from kpp_pyro.config_part import flag
from kpp_pyro.errors import InputError
from kpp_pyro.networks import NETWORKS
from models.pair import Pair

_FLOAT = 4  # bytes
_COPIES_IN_TRAINING = 4  # of the parameters: these, their gradients, and two moments of Adam
_FEWEST_PIXELS = 64  # of an image of any data set


@dataclass(frozen=True)
class _Need:
    """Bytes that a configuration needs, and the fields that they grow with."""

    what: str
    bytes: int
    fields: tuple[str, ...]


def require_parameter_capacity(config: Config, device: torch.device) -> None:
    """Raise InputError, naming a flag, if the parameters alone exceed the memory of the device."""
    _require_fitting(config, device, _needs_of_parameters(config))


def require_training_capacity(config: Config, device: torch.device, processes: int = 1) -> None:
    """Raise InputError, naming a flag, for sizes that alone exceed the memory of the device in training.

    The bytes are a lower bound: of parameters, their gradients and moments, and of the memories and images of a step.
    """
    needs = [*_needs_of_parameters(config, _COPIES_IN_TRAINING), *_needs_of_step(config, processes)]
    _require_fitting(config, device, needs)


def require_step_capacity(config: Config, pair: Pair, processes: int = 1) -> None:
    """Raise InputError, naming a flag, if the activations of a training step exceed the memory of the device."""
    need = _Need(
        "the activations of a step",
        step_bytes(config, pair, processes),
        ("episodes_per_step", "episode_length", "particles"),
    )
    _require_fitting(config, pair.device, [need])


def step_bytes(config: Config, pair: Pair, processes: int = 1) -> int:
    """Bytes of the activations of a training step, of one of several processes.

    They are measured on one and on two episodes, and with two particles, and extrapolated; to within a factor of 1.6.
    What does not grow, such as copies of the parameters in bfloat16, counts once. The graphs of gradients within the
    loss (`--encoder-steps`) count too, although each is freed before the next.
    """
    training = config.training
    of_one = _saved_bytes(config, pair)
    of_episode = _saved_bytes(config, pair, episodes=2) - of_one
    of_particle = _saved_bytes(config, pair, particles=2) - of_one if training.particles > 1 else 0
    all_of_episode = of_episode + (training.particles - 1) * of_particle
    return of_one - of_episode + all_of_episode * (training.episodes_per_step // processes)


def _saved_bytes(config: Config, pair: Pair, episodes: int = 1, particles: int = 1) -> int:
    """Bytes of the tensors that the gradient of the loss of black images needs, beside the parameters."""
    training, parameters = config.training, {_storage(parameter) for parameter in pair.parameters()}
    loss = annealed(training.bound(particles)(pair.model, pair.guide))
    length = config.data.images_per_episode
    episode = torch.zeros(episodes, length, *pair.model.image_shape, dtype=torch.float32, device=pair.device)
    saved: dict[int, torch.UntypedStorage] = {}  # held, since the place of a freed one would be used again

    def note(tensor: Tensor) -> Tensor:  # detached: a graph that holds its own outputs is never freed
        saved[_storage(tensor)] = tensor.untyped_storage()
        return tensor.detach()

    with own_randomness(0, pair.device), torch.autograd.graph.saved_tensors_hooks(note, lambda held: held):
        loss(episode, {})
    return sum(storage.nbytes() for place, storage in saved.items() if place not in parameters)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def memory_bytes(device: torch.device) -> int:
    """Memory of a device, used or not, in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def _needs_of_parameters(config: Config, copies: int = 1) -> Iterator[_Need]:
    network, latent, of_latent = config.network, config.memory.latents, _latent_fields(config)
    # An encoder and a decoder, each of at least one matrix in a block; and a matrix from and to the latent.
    numbers = copies * _FLOAT
    yield _Need("the parameters", 2 * network.depth * network.width**2 * numbers, ("depth", "width"))
    yield _Need("the parameters", 2 * latent * network.width * numbers, (*of_latent, "width"))
    if NETWORKS[network.networks].is_code:  # a matrix from all latents to as many numbers of the patches
        yield _Need("the parameters", latent**2 * numbers, of_latent)


def _needs_of_step(config: Config, processes: int) -> Iterator[_Need]:
    data, training, latent = config.data, config.training, config.memory.latents
    episodes = -(-training.episodes_per_step // processes)
    images = episodes * data.images_per_episode * training.particles
    of_images = ("episodes_per_step", "episode_length", "particles")
    yield _Need("the images of a step", images * _FEWEST_PIXELS * _FLOAT, of_images)
    yield _Need("the latents of a step", images * latent * _FLOAT, (*_latent_fields(config), *of_images))
    if has_blocks(config):
        scalars = math.prod(config.memory.layout.shape)
        sides: tuple[str, ...] = ("memory_channels", "memory_height", "memory_width")
    else:
        scalars, sides = config.program.memory_rows * latent, ("memory_rows", "latent_size")
    yield _Need("the memories of a step", episodes * scalars * _FLOAT, (*sides, "episodes_per_step"))


def _latent_fields(config: Config) -> tuple[str, ...]:
    """The fields that the number of latents grows with."""
    of_block = "memory_channels", "block_height", "block_width", "reads", "signs_per_scalar"
    return of_block if config.memory.latent_size is None else ("latent_size",)


def _require_fitting(config: Config, device: torch.device, needs: Iterable[_Need]) -> None:
    """Raise InputError about the field that is largest in comparison with its default."""
    available, values, defaults = memory_bytes(device), config.flat(), config.defaults()
    for need in needs:
        if need.bytes > available:
            given = [name for name in need.fields if values[name]]
            name = max(given, key=lambda field: values[field] / (defaults[field] or 1))
            raise InputError(
                f"{flag(name)}: expected {need.what} to fit into the {available / 1e9:,.0f} GB of this machine, "
                f"found {values[name]}, with which they take about {need.bytes / 1e9:,.0f} GB"
            )
