"""A variational autoencoder with two stochastic layers (Burda, Grosse & Salakhutdinov, ICLR 2016, arXiv:1509.00519).

The upper latent is the "key" of the other models, the lower one their "latent".
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.networks.heads import InPrecision, LocScaleHead
from kpp_pyro.posteriors.interface import Posterior
from kpp_pyro.priors.interface import KeyPrior
from kpp_pyro.writes.interface import Encoding
from models.memory_model import GuideNetworks, KeysFromImages
from models.pair import Pair
from models.parts import SMALLEST_SCALE, Parts
from models.registry import MODELS, ModelKind
from models.vae import MemorylessModel, VaeGuide

_RAW_SCALE = 2.5  # initial raw value of the scales of p(z | y), which are then about 1, as in the prior of a VAE


class TwoLayerVaeModel(MemorylessModel):
    """The generative model.

        y_t ~ p(y)             event (S,)
        z_t ~ p(z | y_t)       = N(mu(y_t), diag(sigma(y_t)^2))
        x_t ~ p(x | z_t)       by `likelihood`

    Args:
        reading: network of p(z | y), keys (..., S) to mu and sigma (..., D).
        key_prior: p(y).
        decoder: network of p(x | z).
        image_shape: (C, H, W).
        dtype: precision in which the networks run.
    """

    def __init__(
        self,
        reading: nn.Module,
        key_prior: KeyPrior,
        decoder: nn.Module,
        image_shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(key_prior, decoder, image_shape, dtype)
        self.reading = InPrecision(reading, dtype)

    def latent_prior(self, memory: Tensor, key: Tensor | None) -> Distribution:
        """p(z | y): event (D,); `memory` is not used."""
        return DiagonalNormal(*self.reading(key))


class TwoLayerVaeGuide(KeysFromImages, VaeGuide):
    """The variational posterior, from the upper latent down, as in a ladder VAE (Sønderby et al. 2016).

        y_t ~ q(y_t | X)
        z_t ~ q(z_t | X, y_t)    q(z_t | X) p(z_t | y_t), normalised, and corrected by a network; or q(z_t | X)

    The original goes up instead, q(z | x) q(y | z). A ladder VAE has the product alone; see `LatentCorrection`.

    Args:
        networks: encoder and posterior families.
        latent_size: D.
        smallest_scale: lower bound of the scales of q(y | X) and q(z | X).
        keys: the family of q(y | X).
        reading: the model's network of p(z | y).
    """

    def __init__(
        self, networks: GuideNetworks, latent_size: int, smallest_scale: float, keys: Posterior, reading: nn.Module
    ) -> None:
        super().__init__(networks, latent_size, smallest_scale)
        self.add_keys(networks, keys, smallest_scale)
        self.reading = reading

    def read(self, memory: Tensor, key: Tensor) -> Tensor:
        """The key itself, (..., B, T, S): there is no memory."""
        return key

    def latent_posterior(
        self, encoding: Encoding, memory: Tensor | None = None, key: Tensor | None = None
    ) -> Distribution:
        """q(z | X), event (D,); or q(z | X, y), where the guide has a correction and a key is given."""
        if self.latent_sees_read and key is not None:
            loc, scale = _product(encoding.latent_loc, encoding.latent_scale, *self.reading(key))
            encoding = replace(encoding, latent_loc=loc, latent_scale=scale)
        return super().latent_posterior(encoding, memory, key)


def _product(loc: Tensor, scale: Tensor, other_loc: Tensor, other_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Location and scale of the product of two normal densities: locations are weighted by their precisions."""
    precision, other_precision = scale**-2, other_scale**-2
    total = precision + other_precision
    return (precision * loc + other_precision * other_loc) / total, total.rsqrt()


def _build(parts: Parts) -> Pair:
    size, key_size, width = parts.latent_size, parts.config.program.key_size, parts.encoding_size
    head = LocScaleHead(width, size, SMALLEST_SCALE)
    nn.init.constant_(head.linear.bias[size:], _RAW_SCALE)
    reading = nn.Sequential(nn.Linear(key_size, width), nn.GELU(), head)
    prior, decoder = parts.key_prior(key_size), parts.decoder(size)
    model = TwoLayerVaeModel(reading, prior, decoder, parts.image_shape, parts.dtype)
    networks = parts.guide_networks(model, key_size, size)
    keys = parts.key_posterior(key_size)
    return Pair(model, TwoLayerVaeGuide(networks, size, SMALLEST_SCALE, keys, model.reading))


MODELS["two_layer_vae"] = ModelKind(
    _build,
    frozenset({"key_size", "key_prior", "key_guide", "latent_context", "kl_key_start"}),
    "key_size",
    keys_from_images=True,
    has_memory=False,
)
