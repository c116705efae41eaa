"""What every write offers, whatever its networks: a memory, keys and latents for the images of an episode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.memory.blocks import Addressing, MemoryLayout
from kpp_pyro.memory.sign_code import SignCode
from kpp_pyro.posteriors.interface import Posterior


@dataclass(frozen=True)
class Encoding:
    """What is known of the images of an episode before any memory.

    Attributes:
        features: f_enc(X), (B, T, F).
        latent_loc: location of q(z|X), (B, T, D); where keys may read semantically, of its half for other keys (D / 2).
        latent_scale: scale of q(z|X), likewise.
        semantic: location and scale (B, T, D / 2) of the half for keys that read semantically, if there are any.
    """

    features: Tensor
    latent_loc: Tensor
    latent_scale: Tensor
    semantic: tuple[Tensor, Tensor] | None = None

    @property
    def images(self) -> int:
        """T, the images of an episode."""
        return self.features.shape[1]


@dataclass(frozen=True)
class WriteParts:
    """What a write is made of.

    Attributes:
        layout: of the memory.
        encoding_size: F, of the encodings f_enc(X).
        smallest_scale: lower bound of the latents' scale.
        keys: makes a family of q(y|X, M), of keys (R, 3), for a write whose keys are of one.
        dtype: precision of the networks.
        code: by which contents are signs, packed into the scalars of a block; as they are if None.
        semantic: prior probability of keys that read a block semantically, see `SemanticReading`.
    """

    layout: MemoryLayout
    encoding_size: int
    smallest_scale: float
    keys: Callable[[], Posterior]
    dtype: torch.dtype = torch.float32
    code: SignCode | None = None
    semantic: float = 0.0


class Write(nn.Module, ABC):
    """The networks behind q(M|X), q(y|X, M) and q(z|X), from the encodings f_enc(X).

    Attributes:
        addressing: how the memory that this write makes is to be read.
        latent_size: D, the size of the latents whose posterior it gives, or of such a half.
        points_at_blocks: whether q(y|X, M) says which block is read, and is of no other family.
    """

    addressing: Addressing
    latent_size: int
    points_at_blocks: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def of(cls, parts: WriteParts) -> Write:
        """Make the write."""

    @abstractmethod
    def encode(self, features: Tensor) -> Encoding:
        """Complete features f_enc(X), (B, T, F), with the parameters of q(z|X)."""

    @abstractmethod
    def forward(self, encoding: Encoding) -> Tensor:
        """f_mem: encodings of episodes to memories (B, 1, C_m, H_m, W_m)."""

    @abstractmethod
    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y | X, M), batch (B, T), event (R, 3).

        Without a memory the images are those that were written and may be found by where they were put; with one,
        (B, 1, C_m, H_m, W_m), they are cues, to be found in it by what they look like.
        """


WRITES: dict[str, type[Write]] = {}
"""Writes by name; the file of each one registers it."""
