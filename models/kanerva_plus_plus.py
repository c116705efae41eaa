"""Kanerva++ (Ramapuram, Wu & Kalousis, ICLR 2021, arXiv:2103.03905) as a Pyro model/guide pair.

The memory is C_m x H_m x W_m scalars, deterministic given the episode; a key is R reads, each (scale, x, y).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.distributions.block_key import BlockKey
from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.memory.blocks import KEY_SIZE, Addressing, cut_blocks, read
from kpp_pyro.networks.heads import InPrecision
from kpp_pyro.networks.semantic import DecoderOfHalves, in_halves
from kpp_pyro.priors.interface import KeyPrior
from kpp_pyro.writes import Write
from kpp_pyro.writes.interface import Encoding
from models.memory_model import GuideNetworks, MemoryGuide, MemoryModel
from models.pair import Pair
from models.parts import Parts
from models.registry import MODELS, ModelKind

BlockPriors = Callable[[Tensor, bool], tuple[Tensor, Tensor]]


class KanervaPlusPlusModel(MemoryModel):
    """The generative model: reads R blocks of a memory and decodes them.

        M   ~ p(M)          flat; observed where a memory is given
        y_t ~ p(y)          such as N(0, I)
        z_t ~ p(z | M, y_t) = N(mu, sigma^2)(read(M, y_t))
        x_t ~ p(x | z_t)    by `likelihood`

    The flat prior cannot be sampled; images are generated given a memory, see `generate`.

    Args:
        addressing: map from keys to places in the memory.
        reading: network of p(z | M, y), blocks (..., R, C_m, h, w) to loc and scale (..., D).
        key_prior: p(y), of keys (R, 3).
        decoder: network of p(x | z), latents (..., D) to the outputs that the likelihood asks for.
        image_shape: (C, H, W).
        dtype: precision in which the networks run.
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
    ) -> None:
        super().__init__(key_prior, decoder, image_shape, dtype)
        self.addressing = addressing
        self.reading = InPrecision(reading, dtype)

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        """Event shape of a memory, (C_m, H_m, W_m)."""
        return self.addressing.layout.shape

    def latent_prior(self, memory: Tensor, key: Tensor | None) -> Distribution:
        """p(z | M, y): memory (..., B, 1, C_m, H_m, W_m) and key (..., B, T, R, 3) to event (D,)."""
        assert key is not None
        semantic = self.addressing.is_semantic(key) if self.addressing.semantic else None
        return self._latent_prior_of(read(memory, key, self.addressing), semantic)

    def mean_read_prior(self, memory: Tensor, key: Distribution) -> Distribution:
        """p(z | M, y), batch (B, T), at the mean read E_q(y)[read(M, y)], or at the read of q's mode.

        The mode is used for packed signs, whose mean has no meaning, and for normal keys, whose mean read has no closed
        form. With a `BlockKey`, semantic keys count as ordinary keys.
        """
        if isinstance(key, BlockKey):
            packed = getattr(self.reading.network, "packed", False)
            blocks = read(memory, key.mode, self.addressing) if packed else key.mean_read(memory)
            semantic = torch.zeros_like(blocks[..., 0, 0, 0], dtype=torch.bool) if self.addressing.semantic else None
            return self._latent_prior_of(blocks, semantic)
        return super().mean_read_prior(memory, key)

    def block_priors(self, memory: Tensor, semantic: bool) -> tuple[Tensor, Tensor]:
        """Loc and scale (B, N, D / 2) of p(z | M, y) of each block n, for a semantic or an ordinary key y.

        Only the half of z that belongs to this kind of key is returned.

        Args:
            memory: (B, 1, C_m, H_m, W_m).
            semantic: whether the keys read semantically.
        """
        blocks = cut_blocks(memory.squeeze(-4), self.addressing.layout).unsqueeze(-4)  # (B, N, 1, C_m, h, w)
        is_semantic = torch.full_like(blocks[..., 0, 0, 0], semantic, dtype=torch.bool)
        loc, scale = (value.chunk(2, -1)[semantic] for value in self.reading(blocks, is_semantic))
        return loc, scale

    def _latent_prior_of(self, blocks: Tensor, semantic: Tensor | None) -> Distribution:
        """p(z | M, y), event (D,), from the blocks (..., R, C_m, h, w) that y reads."""
        loc, scale = self.reading(blocks) if semantic is None else self.reading(blocks, semantic)
        return DiagonalNormal(loc, scale)


class KanervaPlusPlusGuide(MemoryGuide):
    """The variational posterior: a deterministic memory, and q of each image's key and latent.

        M   ~ delta(M - f_mem(f_enc(X)))   absent where a memory is given
        y_t ~ q(y_t | X, M)
        z_t ~ q(z_t | X)                   or q(z_t | X, M, y_t)

    Args:
        networks: encoder and posterior families.
        write: f_mem, and the networks of q(y|X, M) and q(z|X).
        block_priors: `KanervaPlusPlusModel.block_priors` of the model; required for q(y|X, M) of cues where keys may
            read semantically.
    """

    def __init__(self, networks: GuideNetworks, write: Write, block_priors: BlockPriors | None = None) -> None:
        super().__init__(networks)
        self.write = write
        self.block_priors = block_priors

    @property
    def latent_sees_read(self) -> bool:
        """Whether the latent's posterior is q(z | X, M, y), as with a correction or with semantic keys."""
        return super().latent_sees_read or self.write.addressing.semantic > 0

    def amortized_encoding(self, episode: Tensor) -> Encoding:
        """f_enc(X), and the parameters of q(z|X)."""
        return self.write.encode(self.encoder(episode))

    def memory_posterior(self, encoding: Encoding) -> Distribution:
        """q(M|X): batch (B, 1), event (C_m, H_m, W_m)."""
        return dist.Delta(self.write(encoding), event_dim=3)

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y|X, M), event (R, 3): of cues if a memory is given, otherwise of the images that are written."""
        if memory is None or self.block_priors is None or encoding.semantic is None:
            return self.write.key_posterior(encoding, memory)
        return self._key_of_nearest_priors(encoding, memory, self.block_priors)

    def recall_posterior(self, encoding: Encoding, memory: Tensor) -> Distribution:
        """q(y|X, M) of corrupted copies of written images; no key reads semantically, since the images were written."""
        return self.write.key_posterior(encoding, memory)

    @torch.no_grad()
    def _key_of_nearest_priors(self, encoding: Encoding, memory: Tensor, block_priors: BlockPriors) -> Distribution:
        """q(y|X, M) with mass proportional to p(y) exp(-KL(q(z|X, y) || p(z|M, y))) on each block and kind of read.

        p(y) is the mass of a block and a kind of read under the standard normal prior. This q(y|X, M) maximises the
        ELBO without its reconstruction term, for unit KL weights and Gaussian latents without a correction. Its
        gradient is therefore omitted. For any other guide the ELBO is still a lower bound.

        In training every cue was left out of the memory, and all keys read semantically. Early in training contents are
        nearly equal: a cue's sharp read would then have the lower KL, and its gradient would keep the contents equal.
        """
        assert encoding.semantic is not None
        addressing, own = self.write.addressing, (encoding.latent_loc, encoding.latent_scale)
        log_mass = addressing.cell_masses(2 * addressing.layout.blocks, encoding.features).log()  # (2 N,)
        of_sharp, of_semantic = log_mass.chunk(2)
        semantic = of_semantic - _pairwise_kl(encoding.semantic, block_priors(memory, True))
        sharp = torch.full_like(semantic, -math.inf)
        if not self.training:
            sharp = of_sharp - _pairwise_kl(own, block_priors(memory, False))
        return BlockKey(torch.cat([sharp, semantic], -1).softmax(-1).unsqueeze(-2), addressing)

    def latent_posterior(
        self, encoding: Encoding, memory: Tensor | None = None, key: Tensor | None = None
    ) -> Distribution:
        """q(z | X, M, y), event (D,); a semantic key has its own half of the latent, see `in_halves`."""
        if encoding.semantic is not None:
            no_key = encoding.features.new_zeros((), dtype=torch.bool)
            semantic = no_key if key is None else self.write.addressing.is_semantic(key)  # (..., B, T, 1)
            loc, scale = in_halves((encoding.latent_loc, encoding.latent_scale), encoding.semantic, semantic)
            encoding = replace(encoding, latent_loc=loc, latent_scale=scale)
        return super().latent_posterior(encoding, memory, key)

    def read(self, memory: Tensor, key: Tensor) -> Tensor:
        """Blocks (..., B, T, R C_m h w) that keys read, flat."""
        return read(memory, key, self.write.addressing).flatten(-4)


def _pairwise_kl(posterior: tuple[Tensor, Tensor], prior: tuple[Tensor, Tensor]) -> Tensor:
    """KL(q_t || p_n), (B, T, N), of normals q with loc and scale (B, T, D) and p with loc and scale (B, N, D).

    Computed by matrix products: broadcasting 512 images against 512 blocks would take a gigabyte.
    """
    (loc, scale), (prior_loc, prior_scale) = posterior, prior
    precision = prior_scale.square().reciprocal()
    prior_terms = (prior_loc.square() * precision / 2 + prior_scale.log()).sum(-1).unsqueeze(-2)
    cross_terms = (loc.square() + scale.square()) @ precision.mT / 2 - loc @ (prior_loc * precision).mT
    return cross_terms + prior_terms - (scale.log() + 0.5).sum(-1, keepdim=True)


def _build(parts: Parts) -> Pair:
    layout, write = parts.config.memory.layout, parts.write()
    decoder = parts.decoder(write.latent_size)
    reading = parts.latent_prior(write.latent_size)
    latent_size = int(reading.latent_size)  # type: ignore[arg-type]
    if write.addressing.semantic:
        decoder = DecoderOfHalves(decoder, parts.decoder(write.latent_size), latent_size)
    prior = parts.key_prior(layout.reads, KEY_SIZE)
    model = KanervaPlusPlusModel(write.addressing, reading, prior, decoder, parts.image_shape, parts.dtype)
    networks = parts.guide_networks(model, layout.read_scalars, latent_size)
    return Pair(model, KanervaPlusPlusGuide(networks, write, model.block_priors))


MODELS["kanerva_plus_plus"] = ModelKind(
    _build,
    frozenset(
        {
            *("write", "memory_channels", "memory_height", "memory_width", "block_height", "block_width", "reads"),
            *("signs_per_scalar", "semantic_reads", "left_out", "content_steps"),
            *("key_prior", "key_guide", "latent_prior", "latent_context", "kl_key_start"),
        }
    ),
)
