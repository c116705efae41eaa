"""The registry of likelihoods, what each of them says, and the unit in which images of grey levels are scored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from kpp_pyro.errors import InputError

_KL, _NATS = "kl_", "nats_per_image"
Nats = TypeVar("Nats", float, Tensor)


@dataclass(frozen=True)
class Likelihood(ABC):
    """p(x | z): what the decoder has to give for it, and its distribution.

    Attributes:
        levels: L. Intensities of images are k / (L - 1) with whole k from 0 to L - 1.
    """

    levels: int

    @abstractmethod
    def decoder_channels(self, image_channels: int) -> int:
        """Channels that the decoder has to give for images of C = `image_channels`."""

    def distribution(self, outputs: Tensor, image_channels: int) -> Distribution:
        """p(x | z), batch shape (...), event shape (C, H, W).

        Args:
            outputs: of the decoder, (..., `decoder_channels(image_channels)`, H, W).
            image_channels: C.

        Raises:
            InputError: outputs of another number of channels.
        """
        expected = self.decoder_channels(image_channels)
        if outputs.ndim < 3 or outputs.shape[-3] != expected:
            found = tuple(outputs.shape)
            raise InputError(f"outputs of the decoder: expected shape (..., {expected}, H, W), found {found}")
        return self._distribution(outputs, image_channels)

    @abstractmethod
    def _distribution(self, outputs: Tensor, image_channels: int) -> Distribution:
        """p(x | z) of outputs that have been checked."""


LIKELIHOODS: dict[str, Likelihood] = {}
"""Likelihoods by name; each is registered by its own file."""


def bits_per_dim(nats: Nats, image_shape: tuple[int, int, int]) -> Nats:
    """Convert nats per image to bits per dimension, nats / (C H W ln 2); the sign stays.

    Args:
        nats: per image, a number or a tensor.
        image_shape: (C, H, W).
    """
    return nats / (math.prod(image_shape) * math.log(2))


def with_bits_per_dim(content: Any, image_shape: tuple[int, int, int]) -> Any:
    """A report in which bits per dimension stand beside the nats.

    Beside each field whose name ends in `nats_per_image` stands one that ends in `bits_per_dim`, with the same sign.

    Args:
        content: of the report: mappings, lists, numbers; None for an unknown number.
        image_shape: (C, H, W).
    """
    if isinstance(content, list | tuple):
        return [with_bits_per_dim(part, image_shape) for part in content]
    if not isinstance(content, Mapping):
        return content
    found: dict[str, Any] = {}
    for name, value in content.items():
        found[name] = with_bits_per_dim(value, image_shape)
        if str(name).endswith(_NATS):
            found[name.removesuffix(_NATS) + "bits_per_dim"] = _converted(value, image_shape)
    return found


def kl_sites(names: Iterable[str]) -> dict[str, str]:
    """The site of each KL in nats among the names of a report's fields, `kl_SITE_nats_per_image`; by the field's name.

    Args:
        names: of fields; the others are left out, and so are KLs in bits per dimension.
    """
    fields = (name for name in names if name.startswith(_KL) and name.endswith(f"_{_NATS}"))
    return {name: name.removeprefix(_KL).removesuffix(f"_{_NATS}") for name in fields}


def _converted(nats: Any, image_shape: tuple[int, int, int]) -> Any:
    if isinstance(nats, list | tuple):
        return [_converted(value, image_shape) for value in nats]
    return None if nats is None else bits_per_dim(float(nats), image_shape)
