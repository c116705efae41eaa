"""A variational autoencoder (Kingma & Welling, ICLR 2014), as a model with a memory of zero scalars."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.networks.heads import InPrecision, LocScaleHead
from kpp_pyro.writes.interface import Encoding
from models.memory_model import GuideNetworks, MemoryGuide, MemoryModel
from models.pair import Pair
from models.parts import SMALLEST_SCALE, Parts
from models.registry import MODELS, ModelKind


class MemorylessModel(MemoryModel):
    """Base of models without a memory, in the interface of a memory model, so that all models are scored alike."""

    @property
    def memory_shape(self) -> tuple[int]:
        """(0,): the memory has no scalars."""
        return (0,)


class VaeModel(MemorylessModel):
    """The generative model.

        z_t ~ p(z)       = N(0, I)
        x_t ~ p(x | z_t)   by `likelihood`

    Args:
        latent_size: D.
        decoder: network of p(x | z).
        image_shape: (C, H, W).
        dtype: precision in which the decoder runs.
    """

    def __init__(
        self,
        latent_size: int,
        decoder: nn.Module,
        image_shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(None, decoder, image_shape, dtype)
        self.register_buffer("latent_loc", torch.zeros(latent_size), persistent=False)

    def latent_prior(self, memory: Tensor, key: Tensor | None) -> Distribution:
        """p(z): event (D,); `memory` and `key` are not used."""
        return DiagonalNormal(self.latent_loc, torch.ones_like(self.latent_loc))


class VaeGuide(MemoryGuide):
    """The variational posterior, q(z_t | X); it writes nothing.

    Args:
        networks: encoder and posterior families.
        latent_size: D.
        smallest_scale: lower bound of the latents' scale.
    """

    has_keys = False

    def __init__(self, networks: GuideNetworks, latent_size: int, smallest_scale: float) -> None:
        super().__init__(networks)
        head = LocScaleHead(networks.encoding_size, latent_size, smallest_scale, networks.is_code)
        self.to_latent = InPrecision(head, networks.dtype)

    def amortized_encoding(self, episode: Tensor) -> Encoding:
        """f_enc(X), and the parameters of q(z|X)."""
        features = self.encoder(episode)
        return Encoding(features, *self.to_latent(features))

    def memory_posterior(self, encoding: Encoding) -> Distribution:
        """A point, a memory of zero scalars: batch (B, 1), event (0,)."""
        return dist.Delta(encoding.latent_loc.new_zeros(len(encoding.latent_loc), 1, 0), event_dim=1)


def _build(parts: Parts) -> Pair:
    size = parts.latent_size
    model = VaeModel(size, parts.decoder(size), parts.image_shape, parts.dtype)
    return Pair(model, VaeGuide(parts.guide_networks(model, 0, size), size, SMALLEST_SCALE))


MODELS["vae"] = ModelKind(_build, frozenset(), has_memory=False)
