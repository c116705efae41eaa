"""Kanerva++ (Ramapuram, Wu & Kalousis, ICLR 2021, arXiv:2103.03905) as a Pyro model/guide pair.

The memory is C_m x H_m x W_m scalars, a function of the episode, or random around it; a key is R reads, each
(scale, column, row).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.distributions.block_key import BlockKey
from kpp_pyro.distributions.block_memory import BlockMemory, NormalMemory, held_blocks
from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import DiagonalNormal, Plate
from kpp_pyro.memory.blocks import KEY_SIZE, Addressing, read
from kpp_pyro.networks.heads import InPrecision
from kpp_pyro.priors import LATENT_PRIORS, KeyPrior, MemoryPrior
from kpp_pyro.writes import Write
from kpp_pyro.writes.interface import Encoding
from models.memory_model import GuideNetworks, MemoryGuide, MemoryModel, draw, require_episode
from models.pair import Pair
from models.parts import Parts
from models.registry import MODELS, ModelKind


class KanervaPlusPlusModel(MemoryModel):
    """The generative model: reads R blocks of a memory and decodes them.

        M   ~ p(M)          flat, or block after block; observed where a memory is given
        y_t ~ p(y)          such as N(0, I); with `in_order`, own image t reads block t, without a key
        z_t ~ p(z | M, y_t) = N(read(M, y_t), sigma^2), or the read itself
        x_t ~ p(x | z_t)    by `likelihood`

    The flat prior cannot be sampled; images are then generated given a memory, see `generate`.

    Args:
        addressing: map from keys to places in the memory.
        reading: network of p(z | M, y), blocks (..., R, C_m, h, w) to loc and scale (..., D), or to the latent itself.
        key_prior: p(y), of keys (R, 3).
        decoder: network of p(x | z), latents (..., D) to the outputs that the likelihood asks for.
        image_shape: (C, H, W).
        dtype: precision in which the networks run.
        block_prior: p(M) of the blocks that are written; None for a flat one.
        in_order: whether own image t reads block t.
    """

    addressing: Addressing

    def __init__(
        self,
        addressing: Addressing,
        reading: nn.Module,
        key_prior: KeyPrior,
        decoder: nn.Module,
        image_shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
        block_prior: MemoryPrior | None = None,
        in_order: bool = False,
    ) -> None:
        super().__init__(key_prior, decoder, image_shape, dtype)
        self.addressing = addressing
        self.reading = InPrecision(reading, dtype)
        self.block_prior, self.in_order = block_prior, in_order

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        """Event shape of a memory, (C_m, H_m, W_m)."""
        return self.addressing.layout.shape

    def memory_prior(self, images: int) -> Distribution:
        """p(M) of T = `images` images, event (C_m, H_m, W_m); blocks that are not written are zero."""
        if self.block_prior is None:
            return super().memory_prior(images)
        layout = self.addressing.layout
        return BlockMemory(self.block_prior, layout, layout.written(images), next(self.parameters()).detach())

    def own_key_prior(self, episodes: int, images: int) -> Distribution:
        """p(y_t) of own images: p(y), or with `in_order` the middle of block t, a point (B, T)."""
        if not self.in_order:
            return super().own_key_prior(episodes, images)
        return dist.Delta(keys_in_order(self.addressing, episodes, images, next(self.parameters())), event_dim=2)

    def next_image(self, episode: Tensor, memory: Tensor) -> Tensor:
        """The program of images that were not written: each reads a block that follows those of a memory.

            M' ~ p(M' | M)      site "block": the next block of the prior of memories, (S,)
            z  ~ p(z | M')      or the block itself
            x  ~ p(x | z)

        Given the memory, the images are independent: ln p(x | M) = ln E_p(M' | M) [p(x | M')].

        Args:
            episode: images (B, T, C, H, W).
            memory: (B, 1, C_m, H_m, W_m), of equally many written blocks each.

        Raises:
            InputError: the prior of memories is flat, or the memories hold different numbers of blocks.
        """
        require_episode(episode, self.image_shape)
        if self.block_prior is None:
            raise InputError("memory prior: expected one that predicts the next block, found flat")
        block_prior = self.block_prior.next_block(held_blocks(memory, self.addressing.layout))
        with Plate("episodes", episode.shape[0], dim=-2), Plate("images", episode.shape[1], dim=-1):
            block = pyro.sample("block", block_prior)
            block = block.unflatten(-1, (1, *self.addressing.layout.block_shape))  # (..., R, C_m, h, w), R = 1
            latent = draw("latent", self._latent_prior_of(block))
            return pyro.sample("image", self.image_likelihood(latent), obs=episode)

    def latent_prior(self, memory: Tensor, key: Tensor | None) -> Distribution:
        """p(z | M, y): memory (..., B, 1, C_m, H_m, W_m) and key (..., B, T, R, 3) to event (D,)."""
        assert key is not None
        return self._latent_prior_of(read(memory, key, self.addressing))

    def mean_read_prior(self, memory: Tensor, key: Distribution) -> Distribution:
        """p(z | M, y), batch (B, T), at the mean read E_q(y)[read(M, y)], or at the read of q's mode.

        The mode is used for packed signs, whose mean has no meaning, and for normal keys, whose mean read has no closed
        form.
        """
        if isinstance(key, BlockKey):
            packed = getattr(self.reading.network, "packed", False)
            blocks = read(memory, key.mode, self.addressing) if packed else key.mean_read(memory)
            return self._latent_prior_of(blocks)
        return super().mean_read_prior(memory, key)

    def _latent_prior_of(self, blocks: Tensor) -> Distribution:
        """p(z | M, y), event (D,), from the blocks (..., R, C_m, h, w) that y reads."""
        found = self.reading(blocks)
        return dist.Delta(found, event_dim=1) if isinstance(found, Tensor) else DiagonalNormal(*found)


class KanervaPlusPlusGuide(MemoryGuide):
    """The variational posterior: a memory, and q of each image's key and latent.

        M   ~ delta(M - f_mem(f_enc(X)))   or N(f_mem(f_enc(X)), s^2); absent where a memory is given
        y_t ~ q(y_t | X, M)                absent of own images with `in_order`
        z_t ~ q(z_t | X)                   or q(z_t | X, M, y_t); absent without `has_latents`

    With `--episode-encoder independent` the latent's posterior sees its own image alone, q(z_t | x_t).

    Args:
        networks: encoder and posterior families.
        write: f_mem, and the networks of q(y|X, M) and q(z|X).
        in_order: whether own image t reads block t.
        has_latents: whether latents are random; False where they are what is read.
    """

    def __init__(self, networks: GuideNetworks, write: Write, in_order: bool = False, has_latents: bool = True) -> None:
        super().__init__(networks)
        self.write, self.in_order, self.has_latents = write, in_order, has_latents

    def amortized_encoding(self, episode: Tensor) -> Encoding:
        """f_enc(X), and the parameters of q(z|X)."""
        return self.write.encode(self.encoder(episode))

    def memory_posterior(self, encoding: Encoding) -> Distribution:
        """q(M|X): batch (B, 1), event (C_m, H_m, W_m); the scale of a block is that of the content in it."""
        loc, layout = self.write(encoding), self.write.addressing.layout
        if not self.write.is_random:
            return dist.Delta(loc, event_dim=3)
        scale = self.write(replace(encoding, latent_loc=encoding.latent_scale))
        return NormalMemory(loc, scale, layout, layout.written(encoding.images))

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y|X, M), event (R, 3): of cues if a memory is given, otherwise of the images that are written."""
        if memory is None and self.in_order:
            episodes, images = encoding.features.shape[:2]
            keys = keys_in_order(self.write.addressing, episodes, images, encoding.features)
            return dist.Delta(keys, event_dim=2)
        return self.write.key_posterior(encoding, memory)

    def next_image(self, episode: Tensor) -> Callable[..., None]:
        """q(M', z | x) of images that were not written, a program for `KanervaPlusPlusModel.next_image`.

        M' ~ N(content, s^2), as if the image were written.

        Args:
            episode: images (B, T, C, H, W), encoded once. The program is called with these images and a memory.
        """
        encoding = self.encode(episode)

        def posterior(episode: Tensor, memory: Tensor) -> None:
            with Plate("episodes", episode.shape[0], dim=-2), Plate("images", episode.shape[1], dim=-1):
                pyro.sample("block", DiagonalNormal(encoding.latent_loc, encoding.latent_scale))
                if self.has_latents:
                    pyro.sample("latent", self.latent_posterior(encoding))

        return posterior

    def read(self, memory: Tensor, key: Tensor) -> Tensor:
        """Blocks (..., B, T, R C_m h w) that keys read, flat."""
        return read(memory, key, self.write.addressing).flatten(-4)


def keys_in_order(addressing: Addressing, episodes: int, images: int, like: Tensor) -> Tensor:
    """Keys (B, T, R, 3) of B episodes, with which images read their blocks in order; dtype and device are `like`'s."""
    blocks = addressing.layout.blocks_in_order(images, like.device)
    return addressing.middles(blocks, like.dtype).expand(episodes, -1, -1, -1)


def _build(parts: Parts) -> Pair:
    layout, write = parts.config.memory.layout, parts.write()
    decoder = parts.decoder(write.latent_size)
    reading = parts.latent_prior(write.latent_size)
    prior = parts.key_prior(layout.reads, KEY_SIZE)
    in_order = parts.config.program.read_order == "sequence"
    has_latents = not LATENT_PRIORS[parts.config.program.latent_prior].is_point
    model = KanervaPlusPlusModel(
        write.addressing,
        reading,
        prior,
        decoder,
        parts.image_shape,
        parts.dtype,
        parts.memory_prior(),
        in_order,
    )
    networks = parts.guide_networks(model, layout.read_scalars, write.latent_size)
    return Pair(model, KanervaPlusPlusGuide(networks, write, in_order, has_latents))


MODELS["kanerva_plus_plus"] = ModelKind(
    _build,
    frozenset(
        {
            *("write", "memory_channels", "memory_height", "memory_width", "block_height", "block_width", "reads"),
            *("signs_per_scalar", "signs_per_latent", "content_steps", "training_content_steps"),
            *("key_prior", "key_guide", "latent_prior", "latent_context", "kl_key_start"),
            *("memory_prior", "memory_guide", "read_order", "kl_memory_weight", "kl_memory_start"),
        }
    ),
)
