"""Kanerva++ (Ramapuram, Wu & Kalousis, ICLR 2021, arXiv:2103.03905) as a Pyro model/guide pair.

| symbol | meaning                            | site       | batch  | event           |
|--------|------------------------------------|------------|--------|-----------------|
| X      | episode of images                  | `episode`  | (B, T) | (C, H, W)       |
| M      | memory, deterministic given X      | `"memory"` | (B, 1) | (C_m, H_m, W_m) |
| y_t    | key: R reads, each (scale, x, y)   | `"key"`    | (B, T) | (R, 3)          |
| z_t    | latent code of one image           | `"latent"` | (B, T) | (D,)            |
| x_t    | one image                          | `"image"`  | (B, T) | (C, H, W)       |

Plates: `"episodes"` at dim -2, `"images"` at dim -1. A particle plate, where there is one, is at dim -3.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.block_key import BlockKey
from kpp_pyro.likelihoods import bernoulli_likelihood
from kpp_pyro.memory import KEY_SIZE, Addressing, read
from kpp_pyro.networks.precision import InPrecision
from kpp_pyro.normal import DiagonalNormal
from kpp_pyro.writes import Write
from kpp_pyro.writes.interface import Encoding
from models.program_module import Plate, ProgramModule


class FlatPrior(dist.ImproperUniform):
    """A flat density that follows its value's device and type; Pyro's own stays on the CPU."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return zero, the constant that is dropped."""
        return value.new_zeros(()).expand(super().log_prob(value).shape)


class KanervaPlusPlusModel(ProgramModule):
    """The generative model: reads a memory and decodes what was read.

        M   ~ p(M)          flat; observed where a memory is given
        y_t ~ p(y) = N(0, I)
        z_t ~ p(z | M, y_t) = N(mu, sigma^2)(read(M, y_t))
        x_t ~ p(x | z_t)    Bernoulli on logits

    A flat prior cannot be sampled: generation is conditioning on a memory, see `generate`.

    Args:
        addressing: how keys become places in the memory.
        reading: network of p(z | M, y), blocks (..., R, C_m, h, w) to loc and scale (..., D).
        decoder: network of p(x | z), latents (..., D) to logits (..., C, H, W).
        image_shape: (C, H, W).
        dtype: precision in which the networks run.
    """

    def __init__(
        self,
        addressing: Addressing,
        reading: nn.Module,
        decoder: nn.Module,
        image_shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.addressing = addressing
        self.image_shape = image_shape
        self.reading = InPrecision(reading, dtype)
        self.decoder = InPrecision(decoder, dtype)
        self.register_buffer("key_loc", torch.zeros(addressing.layout.reads, KEY_SIZE), persistent=False)

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        """Event shape of a memory, (C_m, H_m, W_m)."""
        return self.addressing.layout.shape

    def memory_prior(self) -> Distribution:
        """p(M): flat, so that its term is a constant that is dropped, as in the paper."""
        return FlatPrior(dist.constraints.real, (), event_shape=self.memory_shape)

    def key_prior(self) -> Distribution:
        """p(y): event (R, 3)."""
        return DiagonalNormal(self.key_loc, torch.ones_like(self.key_loc), event_dims=2)

    def latent_prior(self, memory: Tensor, key: Tensor) -> Distribution:
        """p(z | M, y): memory (..., B, 1, C_m, H_m, W_m) and key (..., B, T, R, 3) to event (D,)."""
        return self.latent_prior_of(read(memory, key, self.addressing))

    def latent_prior_of(self, blocks: Tensor) -> Distribution:
        """p(z | M, y), given what y reads of M: blocks (..., R, C_m, h, w) to event (D,)."""
        loc, scale = self.reading(blocks)
        return DiagonalNormal(loc, scale)

    def mean_read(self, memory: Tensor, key: Distribution) -> Tensor:
        """What keys of a distribution read on average, (..., B, T, R, C_m, h, w); what its mode reads, if it is smooth.

        A normal distribution of keys is narrow beside a block, and has no closed form of its mean read.
        """
        return key.mean_read(memory) if isinstance(key, BlockKey) else read(memory, key.mode, self.addressing)

    def image_likelihood(self, latent: Tensor) -> Distribution:
        """p(x | z): latents (..., B, T, D) to event (C, H, W)."""
        return bernoulli_likelihood(self.decoder(latent))

    def forward(self, episode: Tensor, memory: Tensor | None = None) -> Tensor:
        """Run the program on an episode (B, T, C, H, W), and a memory (B, 1, C_m, H_m, W_m) if one is given."""
        with Plate("episodes", episode.shape[0], dim=-2):
            memory = pyro.sample("memory", self.memory_prior(), obs=memory)
            with Plate("images", episode.shape[1], dim=-1):
                key = pyro.sample("key", self.key_prior())
                latent = pyro.sample("latent", self.latent_prior(memory, key))
                return pyro.sample("image", self.image_likelihood(latent), obs=episode)

    def generate(self, memory: Tensor, images: int) -> poutine.Trace:
        """Trace of the model run forward on memories (B, 1, C_m, H_m, W_m), with T = `images` samples of each."""
        template = memory.new_empty(memory.shape[0], images, *self.image_shape)  # only its shape is used
        generative = poutine.condition(poutine.uncondition(self), data={"memory": memory})
        return poutine.trace(generative).get_trace(template)


class KanervaPlusPlusGuide(ProgramModule):
    """The variational posterior: writes an episode, then says where each image is and what its latent is.

        M   ~ delta(M - f_mem(f_enc(X)))   absent where a memory is given
        y_t ~ q(y_t | X, M)
        z_t ~ q(z_t | X)

    Without a memory it writes `episode` and reads the same images back. With one it writes nothing, and the images of
    `episode` are cues to be found in that memory by what they look like.

    Args:
        encoder: f_enc, episodes (B, T, C, H, W) to features (B, T, F).
        write: f_mem, and the networks of q(y|X, M) and q(z|X).
        dtype: precision in which the encoder runs.
    """

    def __init__(self, encoder: nn.Module, write: Write, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.encoder = InPrecision(encoder, dtype)
        self.write = write

    def encode(self, episode: Tensor) -> Encoding:
        """f_enc(X), and the parameters of q(z|X)."""
        return self.write.encode(self.encoder(episode))

    def memory_posterior(self, encoding: Encoding) -> Distribution:
        """q(M|X): batch (B, 1), event (C_m, H_m, W_m)."""
        return dist.Delta(self.write(encoding), event_dim=3)

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y|X, M): event (R, 3); own images without a memory, cues with one."""
        return self.write.key_posterior(encoding, memory)

    def latent_posterior(self, encoding: Encoding) -> Distribution:
        """q(z|X): event (D,)."""
        return DiagonalNormal(encoding.latent_loc, encoding.latent_scale)

    def amortize(self, episode: Tensor, memory: Tensor | None = None) -> Callable[..., None]:
        """Encode and write once, and return the posterior as a program, to be run as often as draws are wanted.

        The program is called like the guide, with the same episode and memory.
        """
        encoding = self.encode(episode)
        written = self.memory_posterior(encoding) if memory is None else None  # what is given is not written
        key, latent = self.key_posterior(encoding, memory), self.latent_posterior(encoding)

        def posterior(episode: Tensor, memory: Tensor | None = None) -> None:
            with Plate("episodes", episode.shape[0], dim=-2):
                if written is not None:
                    pyro.sample("memory", written)
                with Plate("images", episode.shape[1], dim=-1):
                    pyro.sample("key", key)
                    pyro.sample("latent", latent)

        return posterior

    def forward(self, episode: Tensor, memory: Tensor | None = None) -> None:
        """Run the guide on an episode (B, T, C, H, W), and a memory (B, 1, C_m, H_m, W_m) if one is given."""
        self.amortize(episode, memory)(episode, memory)
