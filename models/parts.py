"""The parts that every model/guide pair is built from, chosen by its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Size, Tensor, nn

from kpp_pyro.likelihoods import LIKELIHOODS
from kpp_pyro.memory.blocks import KEY_SIZE
from kpp_pyro.memory.sign_code import SignCode
from kpp_pyro.networks import EPISODE_ENCODERS, NETWORKS
from kpp_pyro.networks.correction import LatentCorrection
from kpp_pyro.networks.interface import ImageShape
from kpp_pyro.posteriors import POSTERIORS, Posterior
from kpp_pyro.priors import (
    KEY_PRIORS,
    LATENT_PRIORS,
    MEMORY_PRIORS,
    KeyPrior,
    LatentPriorParts,
    MemoryPrior,
    MemoryPriorParts,
)
from kpp_pyro.writes import WRITES, Write
from kpp_pyro.writes.content_steps import LatentAscent, LearnedAscent, SignSearch
from kpp_pyro.writes.interface import WriteParts
from models.config import PairConfig
from models.memory_model import GuideNetworks, MemoryModel

SMALLEST_SCALE = 0.05  # lower bound of the learned scales of latents, keys and random memories


@dataclass(frozen=True)
class Parts:
    """Encoder, and factories of the other parts.

    Attributes:
        config: the configuration.
        image_shape: (C, H, W).
        dtype: precision of the networks.
        encoder: f_enc, episodes (B, T, C, H, W) to features (B, T, F); has `encoding_size`.
    """

    config: PairConfig
    image_shape: ImageShape
    dtype: torch.dtype
    encoder: nn.Module

    @classmethod
    def of(cls, config: PairConfig, image_shape: ImageShape, dtype: torch.dtype) -> Parts:
        """Build the encoder; the methods build the other parts."""
        network = config.network
        build = EPISODE_ENCODERS[network.episode_encoder].build
        sizes = network.width, network.depth, network.temporal_shift
        return cls(config, image_shape, dtype, build(NETWORKS[network.networks], image_shape, *sizes))

    @property
    def encoding_size(self) -> int:
        """F, size of a feature vector."""
        return int(self.encoder.encoding_size)  # type: ignore[arg-type]

    @property
    def is_code(self) -> bool:
        """Whether encodings start as a code of the pixels, whose first D numbers are what latents start as."""
        return NETWORKS[self.config.network.networks].is_code

    @property
    def latent_size(self) -> int:
        """D, size of a latent, for models without blocks."""
        return self.config.memory.latents

    @property
    def code(self) -> SignCode | None:
        """The code that packs latents into the scalars of a block; None if latents are numbers."""
        return self.config.memory.code

    def decoder(self, latent_size: int) -> nn.Module:
        """Network of p(x | z), with as many channels of output as the likelihood asks for."""
        network, (channels, *sides) = self.config.network, self.image_shape
        likelihood = LIKELIHOODS[self.config.program.likelihood]
        output_shape = likelihood.decoder_channels(channels), *sides
        return NETWORKS[network.networks].decoder(latent_size, output_shape, network.width, network.depth)

    def key_prior(self, *key_shape: int) -> KeyPrior:
        """p(y), event `key_shape`."""
        return KEY_PRIORS[self.config.program.key_prior](Size(key_shape), self.image_shape)

    def key_posterior(self, *key_shape: int) -> Posterior:
        """The family of q(y | x), event `key_shape`."""
        return POSTERIORS[self.config.program.key_guide](self.encoding_size, Size(key_shape))

    def write(self) -> Write:
        """f_mem, the write into a memory of blocks."""
        memory = self.config.memory
        return WRITES[memory.write].of(
            WriteParts(
                memory.layout,
                self.encoding_size,
                SMALLEST_SCALE,
                lambda: self.key_posterior(memory.reads, KEY_SIZE),
                self.dtype,
                self.code,
                self.is_code,
                self.config.program.memory_guide == "normal",
            )
        )

    def memory_prior(self) -> MemoryPrior | None:
        """p(M), block after block; None if it is flat."""
        build = MEMORY_PRIORS[self.config.program.memory_prior].build
        return build and build(MemoryPriorParts(self.config.memory.layout.read_scalars, self.dtype))

    def latent_prior(self, latent_size: int) -> nn.Module:
        """Network of p(z | M, y), given the blocks that were read."""
        parts = LatentPriorParts(self.config.memory.layout, latent_size, SMALLEST_SCALE, self.code)
        return LATENT_PRIORS[self.config.program.latent_prior].build(parts)

    def guide_networks(self, model: MemoryModel, read_size: int, latent_size: int) -> GuideNetworks:
        """The networks of a model's guide; a read of the memory has `read_size` scalars."""
        program, size = self.config.program, self.encoding_size
        latents = POSTERIORS[program.latent_guide](size, Size([latent_size]))
        sees_read = program.latent_context == "image_and_read"
        correction = LatentCorrection(size, read_size, latent_size, size) if sees_read else None
        steps, likelihood = program.encoder_steps, model.image_likelihood
        ascent = LearnedAscent(likelihood, steps, latent_size, size, size, self.code) if steps else None
        prepare, train = (
            tuple(self._preparations(model, steps)) for steps in (program.content_steps, program.training_content_steps)
        )
        shared = self.dtype, self.image_shape, self.is_code
        return GuideNetworks(self.encoder, size, latents, correction, ascent, prepare, train, *shared)

    def _preparations(self, model: MemoryModel, steps: int) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
        """Content steps: functions that improve contents before they are written."""
        if steps and self.code:
            yield SignSearch(model.image_likelihood, steps, self.code)
        elif steps:
            yield LatentAscent(model.image_likelihood, steps)
