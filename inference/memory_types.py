"""What a trained memory is made of, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from kpp_pyro.files.memories import load_memory, save_memory
from kpp_pyro.memory.blocks import Addressing


class ReadableModel(Protocol):
    """What a model has to offer to be used, see `models.memory_model`."""

    image_shape: tuple[int, int, int]
    addressing: Addressing | None

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """Event shape of a memory."""

    @property
    def key_shape(self) -> tuple[int, ...]:
        """Event shape of a key."""

    def latent_prior(self, memory: Tensor, key: Tensor) -> Distribution:
        """p(z | M, y)."""

    def mean_read_prior(self, memory: Tensor, key: Distribution) -> Distribution:
        """p(z | M, y) of what keys of a distribution read on average, or at their mode."""

    def image_likelihood(self, latent: Tensor) -> Distribution:
        """p(x | z)."""

    def generate(self, memory: Tensor, images: int) -> poutine.Trace:
        """Trace of the model run forward on a memory."""

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters."""


class CueingGuide(Protocol):
    """What a guide has to offer to be used."""

    def __call__(self, episode: Tensor, memory: Tensor | None = None) -> object:
        """Run the guide."""

    def write_memory(self, episode: Tensor, seed: int | None = None) -> Tensor:
        """Memory (B, 1, ...) of episodes."""

    def encode(self, episode: Tensor) -> Any:
        """f_enc(X)."""

    def recall_posterior(self, encoding: Any, memory: Tensor) -> Distribution:
        """q(y | X, M) of damaged copies."""

    def latent_posterior(self, encoding: Any) -> Distribution:
        """q(z | X)."""

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters."""


@dataclass(frozen=True)
class Memory:
    """One memory, or B of them, and the fingerprint of the model that wrote them: no other can read them.

    Attributes:
        value: of the model's memory shape, such as (C_m, H_m, W_m), or (B, ...).
        author: see `TrainedMemory.fingerprint`.
    """

    value: Tensor = field(repr=False)
    author: str

    def __getitem__(self, index: int | slice) -> Memory:
        """One of B memories, or some."""
        return Memory(self.value[index], self.author)

    def save(self, path: Path | str) -> None:
        """Write a safetensors file. Raises InputError where it cannot be written."""
        save_memory(path, self.value, self.author)

    @classmethod
    def load(cls, path: Path | str) -> Memory:
        """Read what `save` wrote. Raises InputError for a missing, damaged or foreign file."""
        return cls(*load_memory(path))


@dataclass(frozen=True)
class Decoded:
    """N latents and what they are decoded to; (B, N, ...) of B memories.

    Attributes:
        latents: (N, D).
        images: (N, C, H, W), pixel probabilities.
    """

    latents: Tensor
    images: Tensor


@dataclass(frozen=True)
class Read(Decoded):
    """What was read of a memory; the latents are means of p(z | M, y), or draws of it where images are generated.

    Attributes:
        keys: (N, *key_shape), (N, R, 3) of blocks; of a cue, the mode of q(y | x, M).
    """

    keys: Tensor
