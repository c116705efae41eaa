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


def read(rows: Tensor, row_keys: Tensor, query: Tensor, beta: Tensor) -> Tensor:
    """softmax(beta y K^T) M, (..., T, D), of rows M (..., N, D), their keys K (..., N, S) and queries y (..., T, S)."""
    return (beta * query @ row_keys.mT).softmax(-1) @ rows


class HopfieldModel(MemoryModel):
    """M flat,  y_t ~ p(y),  z_t ~ N(softmax(beta y_t (M W)^T) M, sigma^2 I),  x_t ~ p(x | z_t)."""

    def __init__(self, rows: int, size: int, key_size: int, *common: Any) -> None:
        super().__init__(*common)
        self.rows, self.size = rows, size  # N, D
        self.to_key = nn.Linear(size, key_size, bias=False)  # W, shared with the guide
        self.log_beta, self.raw_scale = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    memory_shape = property(lambda self: (self.rows, self.size))

    def latent_prior(self, memory: Tensor, key: Tensor | None) -> Distribution:
        """p(z | M, y): event (D,)."""
        rows = memory.squeeze(-3)  # (..., B, N, D)
        loc = read(rows, self.to_key(rows), key, self.log_beta.exp())  # (..., B, T, D)
        return DiagonalNormal(loc, positive(self.raw_scale, SMALLEST_SCALE).expand_as(loc))


class HopfieldGuide(VaeGuide):
    """A VAE's guide that also writes:  M = the contents c_t,  y_t ~ N(c_t W, sigma_y^2 I),  z_t ~ N(c_t, sigma_t^2)."""

    has_keys = True

    def __init__(self, model: HopfieldModel, networks: GuideNetworks) -> None:
        super().__init__(networks, model.size, SMALLEST_SCALE)
        self.rows, self.to_key = model.rows, model.to_key
        self.raw_key_scale = nn.Parameter(torch.ones(()))

    def memory_posterior(self, encoding: Encoding) -> Distribution:
        """q(M | X), a point: the content of image t is added to row t mod N; rows without an image stay zero."""
        contents = F.pad(encoding.latent_loc, (0, 0, 0, -encoding.images % self.rows))  # (B, k N, D)
        return dist.Delta(contents.unflatten(1, (-1, self.rows)).sum(1, keepdim=True), event_dim=2)

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y | x): an image asks with the key of its own content, whether it was written or is a cue."""
        loc = self.to_key(encoding.latent_loc)
        return DiagonalNormal(loc, positive(self.raw_key_scale, SMALLEST_SCALE).expand_as(loc))


def build(parts: Parts) -> Pair:
    """The model and its guide, from the parts that the configuration chooses."""
    program, size = parts.config.program, parts.latent_size
    common = parts.key_prior(program.key_size), parts.decoder(size), parts.image_shape, parts.dtype
    model = HopfieldModel(program.memory_rows, size, program.key_size, *common)
    return Pair(model, HopfieldGuide(model, parts.guide_networks(model, size, size)))


SETTINGS = frozenset({"memory_rows", "key_size", "key_prior", "content_steps", "kl_key_start"})
MODELS["hopfield"] = ModelKind(build, SETTINGS, key_scalars="key_size")
