"""The paper's write: M = f_mem(f_enc(X)), one learned map of all encodings onto the whole memory."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.memory import KEY_SIZE, Addressing, MemoryLayout
from kpp_pyro.networks.heads import LocScaleHead
from kpp_pyro.networks.precision import InPrecision
from kpp_pyro.networks.residual import ResidualMlp
from kpp_pyro.writes.interface import Encoding, Write


class FeedForwardWrite(Write):
    """Every image writes onto the whole memory, the memory is the sum over the episode divided by sqrt(T).

    The keys' and latents' posteriors are normal, with parameters from the encodings alone: a cue finds its place
    since places are learned from what images look like. The paper does not fix how f_mem joins the encodings; the sum
    makes the episode exchangeable but for the temporal shift.
    """

    def __init__(
        self,
        layout: MemoryLayout,
        encoding_size: int,
        latent_size: int,
        smallest_scale: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.addressing = Addressing(layout, "smooth")
        self.latent_size = latent_size
        self.to_memory = InPrecision(
            nn.Sequential(ResidualMlp(encoding_size), nn.Linear(encoding_size, layout.scalars)), dtype
        )
        self.to_key = InPrecision(LocScaleHead(encoding_size, layout.reads * KEY_SIZE, smallest_scale), dtype)
        self.to_latent = InPrecision(LocScaleHead(encoding_size, latent_size, smallest_scale), dtype)

    def encode(self, features: Tensor) -> Encoding:
        """Add the parameters of q(z|X)."""
        return Encoding(features, *self.to_latent(features))

    def forward(self, encoding: Encoding) -> Tensor:
        """Sum the images' maps onto the memory."""
        total = self.to_memory(encoding.features).sum(1, keepdim=True) / encoding.images**0.5
        return total.unflatten(-1, self.layout.shape)

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y|X): normal, the same for written images and cues."""
        loc, scale = self.to_key(encoding.features)
        shape = (self.layout.reads, KEY_SIZE)
        return dist.Normal(loc.unflatten(-1, shape), scale.unflatten(-1, shape)).to_event(2)
