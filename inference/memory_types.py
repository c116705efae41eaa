"""Types of `inference.trained_memory`: interfaces of model and guide, and the records that methods return."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import InstanceOf
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from kpp_pyro.config_part import require_value
from kpp_pyro.errors import InputError
from kpp_pyro.files.memories import load_memory, save_memory
from kpp_pyro.memory.blocks import Addressing

_TENSOR = InstanceOf[Tensor]  # one object, since the checks of a type are kept by its identity


class ReadableModel(Protocol):
    """The methods of a model that `TrainedMemory` uses, see `models.memory_model.MemoryModel`."""

    image_shape: tuple[int, int, int]
    addressing: Addressing | None

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """Event shape of a memory."""

    @property
    def key_shape(self) -> tuple[int, ...]:
        """Event shape of a key."""

    def memory_prior(self, images: int) -> Distribution:
        """p(M) of T = `images` images, event `memory_shape`."""

    def latent_prior(self, memory: Tensor, key: Tensor) -> Distribution:
        """p(z | M, y), event (D,)."""

    def mean_read_prior(self, memory: Tensor, key: Distribution) -> Distribution:
        """p(z | M, y) at the mean read of a distribution of keys, or at the read of its mode."""

    def image_likelihood(self, latent: Tensor) -> Distribution:
        """p(x | z), event (C, H, W)."""

    def generate(self, memory: Tensor, images: int) -> poutine.Trace:
        """Trace of the model run forward, with `images` samples from each memory."""

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters by name."""


class CueingGuide(Protocol):
    """The methods of a guide that `TrainedMemory` uses, see `models.memory_model.MemoryGuide`."""

    def __call__(self, episode: Tensor, memory: Tensor | None = None) -> object:
        """Run the guide."""

    def write_memory(self, episode: Tensor, seed: int | None = None) -> Tensor:
        """Memories (B, 1, *memory_shape) that episodes (B, T, C, H, W) write."""

    def encode(self, episode: Tensor) -> Any:
        """f_enc(X), and the parameters of q(z | X)."""

    def key_posterior(self, encoding: Any, memory: Tensor) -> Distribution:
        """q(y | X, M) of cues."""

    def latent_posterior(self, encoding: Any) -> Distribution:
        """q(z | X)."""

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters by name."""


@dataclass(frozen=True, eq=False)
class Memory:
    """One memory or B memories, with the fingerprint of the model that wrote them; only that model can read them.

    Attributes:
        value: (*memory_shape), such as (C_m, H_m, W_m); or (B, *memory_shape).
        author: `TrainedMemory.fingerprint` of the model that wrote it.
    """

    value: Tensor
    author: str

    def __post_init__(self) -> None:
        if not isinstance(self.value, Tensor) or not isinstance(self.author, str):
            found = f"{type(self.value).__name__} and {type(self.author).__name__}"
            raise InputError(f"memory: expected a tensor and the fingerprint of its author, found {found}")

    def __repr__(self) -> str:
        """Shape, and the beginning of the author."""
        return f"Memory(shape={self.shape}, author={self.author[:8]!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return tuple(self.value.shape)

    def __getitem__(self, index: int | slice) -> Memory:
        """One of B memories, or a slice of them."""
        return Memory(self.value[index], self.author)

    def save(self, path: Path | str) -> None:
        """Write a safetensors file.

        Raises:
            InputError: the file cannot be written.
        """
        save_memory(path, self.value, self.author)

    @classmethod
    def load(cls, path: Path | str) -> Memory:
        """Read a file that `save` wrote.

        Raises:
            InputError: the file is missing, corrupt or of another format.
        """
        return cls(*load_memory(path))


@dataclass(frozen=True)
class Decoded:
    """N latents and the images that they decode to; every shape has a leading B for B memories.

    Attributes:
        latents: (N, D).
        images: (N, C, H, W), means of p(x | z): pixel probabilities.
    """

    latents: Tensor
    images: Tensor

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require_value(name, value, _TENSOR)


@dataclass(frozen=True)
class Read(Decoded):
    """N reads of a memory. The latents are means of p(z | M, y); samples of `generate` are draws.

    Attributes:
        keys: (N, *key_shape), such as (N, R, 3) for a memory of blocks; of a cue, the mode of q(y | x, M).
    """

    keys: Tensor
