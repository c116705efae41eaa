"""A modern Hopfield memory (Ramsauer et al., ICLR 2021), as a plug-in: `--plugin docs/tutorials/hopfield.py`."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.networks.heads import positive
from kpp_pyro.writes import Encoding
from models import MODELS, ModelKind
from models.memory_model import GuideNetworks, MemoryModel
from models.pair import Pair
from models.parts import SMALLEST_SCALE, Parts
from models.vae import VaeGuide


def read(rows: Tensor, addresses: Tensor, key: Tensor, beta: Tensor) -> Tensor:
    """softmax(beta y A^T) M, (..., T, D): keys y (..., T, S), rows M (..., N, D), their addresses A (..., N, S)."""
    return (beta * key @ addresses.mT).softmax(-1) @ rows


class HopfieldModel(MemoryModel):
    """M flat,  y_t ~ p(y),  z_t ~ N(softmax(beta y_t (M W)^T) M, sigma^2 I),  x_t ~ p(x | z_t)."""

    def __init__(self, rows: int, size: int, key_size: int, *common: Any) -> None:
        super().__init__(*common)
        self.rows, self.size = rows, size  # N, D
        self.to_key = nn.Linear(size, key_size, bias=False)  # W: a row to its address; shared with the guide
        self.log_beta = nn.Parameter(torch.zeros(()))  # beta = 1 at first
        self.raw_scale = nn.Parameter(torch.zeros(()))  # of sigma

    @property
    def memory_shape(self) -> tuple[int, int]:
        """Event shape of a memory, (N, D)."""
        return self.rows, self.size

    def latent_prior(self, memory: Tensor, key: Tensor | None) -> Distribution:
        """p(z | M, y): event (D,)."""
        rows = memory.squeeze(-3)  # (..., B, N, D)
        loc = read(rows, self.to_key(rows), key, self.log_beta.exp())  # (..., B, T, D)
        return DiagonalNormal(loc, positive(self.raw_scale, SMALLEST_SCALE).expand_as(loc))  # sigma >= SMALLEST_SCALE


class HopfieldGuide(VaeGuide):
    """A VAE's guide that also writes and has keys:  M,  y_t ~ N(c_t W, sigma_y^2 I),  z_t ~ N(c_t, sigma_t^2).

    Row t of M is the content c_t of image t. Where there are more images than rows, image t is added to row t mod N.
    """

    has_keys = True

    def __init__(self, model: HopfieldModel, networks: GuideNetworks) -> None:
        super().__init__(networks, model.size, SMALLEST_SCALE)
        self.rows, self.to_key = model.rows, model.to_key
        self.raw_key_scale = nn.Parameter(torch.ones(()))  # of sigma_y

    def memory_posterior(self, encoding: Encoding) -> Distribution:
        """q(M | X), a point: the content of image t is added to row t mod N; rows without an image stay zero."""
        contents = F.pad(encoding.latent_loc, (0, 0, 0, -encoding.images % self.rows))  # T padded to a multiple of N
        rows = contents.unflatten(1, (-1, self.rows)).sum(1, keepdim=True)  # (B, 1, N, D)
        return dist.Delta(rows, event_dim=2)

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y | x): the address of the image's own content, with noise, whether it was written or is a cue."""
        loc = self.to_key(encoding.latent_loc)
        return DiagonalNormal(loc, positive(self.raw_key_scale, SMALLEST_SCALE).expand_as(loc))


def build(parts: Parts) -> Pair:
    """The model and its guide, from the parts that the configuration chooses."""
    program, size = parts.config.program, parts.latent_size
    common = parts.key_prior(program.key_size), parts.decoder(size), parts.image_shape, parts.dtype
    model = HopfieldModel(program.memory_rows, size, program.key_size, *common)
    networks = parts.guide_networks(model, read_size=size, latent_size=size)
    return Pair(model, HopfieldGuide(model, networks))


SETTINGS = frozenset({"memory_rows", "key_size", "key_prior", "content_steps", "kl_key_start"})
MODELS["hopfield"] = ModelKind(build, SETTINGS, key_scalars="key_size")
