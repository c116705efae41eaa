"""Base class of writes, their constructor arguments (`WriteParts`), encodings, and the registry."""

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
    """Features of the images of an episode and the parameters of q(z | X), computed without a memory.

    Attributes:
        features: f_enc(X), (B, T, F).
        latent_loc: location of q(z | X), (B, T, D).
        latent_scale: scale of q(z | X), (B, T, D).
        latent_logits: of latents with a sign code: a, whose levels `SignCode.of(a)` are the location, (B, T, D).
    """

    features: Tensor
    latent_loc: Tensor
    latent_scale: Tensor
    latent_logits: Tensor | None = None

    @property
    def images(self) -> int:
        """T, the number of images per episode."""
        return self.features.shape[1]


@dataclass(frozen=True)
class WriteParts:
    """Constructor arguments of a write.

    Attributes:
        layout: of the memory.
        encoding_size: F, the size of encodings f_enc(X).
        smallest_scale: lower bound of the latents' scale.
        keys: builds the family of q(y | X, M) over keys (R, 3), for writes that use one.
        dtype: precision of the networks.
        code: sign code that packs contents into a block's scalars; None to write contents unchanged.
        from_code: whether contents start as the first D numbers of an encoding.
        is_random: whether memories are drawn around what is written, with the scale of the contents.
    """

    layout: MemoryLayout
    encoding_size: int
    smallest_scale: float
    keys: Callable[[], Posterior]
    dtype: torch.dtype = torch.float32
    code: SignCode | None = None
    from_code: bool = False
    is_random: bool = False


class Write(nn.Module, ABC):
    """The networks of q(M | X), q(y | X, M) and q(z | X), from encodings f_enc(X) of an episode.

    Attributes:
        addressing: addressing of the memory.
        latent_size: D, the size of `Encoding.latent_loc`.
        is_random: whether memories are drawn around what is written, with the scale of the contents.
        points_at_blocks: whether q(y | X, M) is a `BlockKey`, instead of a family of posteriors.
        in_order: whether read r of image t has block t R + r, as random memories and reads in sequence require.
        like: name of the write whose preset it takes too, if any; subclasses inherit it.
    """

    addressing: Addressing
    latent_size: int
    is_random: bool = False
    points_at_blocks: ClassVar[bool] = False
    in_order: ClassVar[bool] = False
    like: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def of(cls, parts: WriteParts) -> Write:
        """Build the write."""

    @abstractmethod
    def encode(self, features: Tensor) -> Encoding:
        """Compute the parameters of q(z | X) from features f_enc(X), (B, T, F)."""

    @abstractmethod
    def forward(self, encoding: Encoding) -> Tensor:
        """f_mem: the memories of encoded episodes, (B, 1, C_m, H_m, W_m)."""

    @abstractmethod
    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y | X, M), batch shape (B, T), event shape (R, 3).

        Args:
            encoding: of the images.
            memory: None if the images are those that were written: their blocks are known. Otherwise the images are
                cues, whose blocks are found by their contents in this memory, (B, 1, C_m, H_m, W_m).
        """


WRITES: dict[str, type[Write]] = {}
"""Writes by name; each is registered by its own file."""
