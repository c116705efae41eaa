"""The learned map onto the whole memory, soft: every place of the memory mixes what the images offer."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.memory import KEY_SIZE, Addressing, MemoryLayout
from kpp_pyro.networks.heads import LocScaleHead
from kpp_pyro.networks.precision import InPrecision
from kpp_pyro.posteriors import Posterior
from kpp_pyro.writes.interface import Encoding, Write

_CLAIM_GAIN = 4.0  # sharpens the first choices, which learning then has something to tell apart by


class SoftFeedForwardWrite(Write):
    """Every place of the memory chooses among what the images offer, by a softmax over the episode; reads are smooth.

        M(u) = sum_t softmax_t(claim_t(u)) content_t   for every place u

    Claims (H_m x W_m) and contents (C_m) are learned maps of an image's encoding, one for each of its R reads. The
    paper does not say how f_mem joins the encodings. A plain sum of learned maps onto the memory mixes all images at
    every place; with a softmax an image can have a place to itself, and a content that is the same wherever it lies
    can be understood by one reading network. It still mixes where two images want the same place: `feed_forward`, which
    does not, is far ahead (docs/experiments.md), and this is what it is compared with.

    The keys' and latents' posteriors have parameters from the encodings alone: a cue finds its place since places are
    learned from what images look like.

    Args:
        layout: of the memory.
        encoding_size: F, of the encodings f_enc(X).
        latent_size: D.
        smallest_scale: lower bound of the scales of keys and latents.
        keys: the family of q(y|X).
        dtype: precision of the networks.
    """

    def __init__(
        self,
        layout: MemoryLayout,
        encoding_size: int,
        latent_size: int,
        smallest_scale: float,
        keys: Posterior,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.addressing = Addressing(layout, "smooth")
        self.latent_size = latent_size
        self.keys = keys
        reads, places = layout.reads, layout.height * layout.width
        self.to_content = InPrecision(nn.Linear(encoding_size, reads * layout.channels), dtype)
        self.to_claim = InPrecision(nn.Linear(encoding_size, reads * places, bias=False), dtype)  # a bias cancels
        self.to_key = InPrecision(LocScaleHead(encoding_size, reads * KEY_SIZE, smallest_scale), dtype)
        self.to_latent = InPrecision(LocScaleHead(encoding_size, latent_size, smallest_scale), dtype)

    def encode(self, features: Tensor) -> Encoding:
        """Add the parameters of q(z|X)."""
        return Encoding(features, *self.to_latent(features))

    def forward(self, encoding: Encoding) -> Tensor:
        """Let every place choose."""
        contents = self.to_content(encoding.features).unflatten(-1, (self.layout.reads, -1)).flatten(1, 2)
        claims = self.to_claim(encoding.features).unflatten(-1, (self.layout.reads, -1)).flatten(1, 2)
        memory = torch.einsum("bsc,bsu->bcu", contents, (_CLAIM_GAIN * claims).softmax(1))
        return memory.unflatten(-1, self.layout.shape[1:]).unsqueeze(1)

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y|X): the same for written images and cues."""
        loc, scale = self.to_key(encoding.features)
        shape = (self.layout.reads, KEY_SIZE)
        return self.keys(loc.unflatten(-1, shape), scale.unflatten(-1, shape), encoding.features)
