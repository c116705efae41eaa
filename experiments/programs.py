"""The parts that a configuration may name, and how they become a model and its guide.

What is registered here, in `kpp_pyro.key_priors`, `kpp_pyro.posteriors` and `inference.objectives` is what the command
line offers. `experiments.legality` says which of them go together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Size, Tensor, nn

from kpp_pyro.errors import InputError
from kpp_pyro.key_priors import KEY_PRIORS, KeyPrior
from kpp_pyro.memory import KEY_SIZE, MemoryLayout
from kpp_pyro.networks.addresses import RowAddresses
from kpp_pyro.networks.attention import AttentiveEncoder
from kpp_pyro.networks.conv import ConvDecoder, ConvEncoder
from kpp_pyro.networks.correction import LatentCorrection
from kpp_pyro.networks.mlp import MlpDecoder, MlpEncoder
from kpp_pyro.networks.reading import DecoderOfHalves, IdentityReading, NoReading, SemanticReading
from kpp_pyro.posteriors import POSTERIORS, Posterior
from kpp_pyro.semi_amortized import LatentRefinement, SignRefinement
from kpp_pyro.sign_code import SignCode
from kpp_pyro.writes import AllocateByContentWrite, AllocateWrite, FeedForwardWrite, Write
from kpp_pyro.writes.blocks import BlockWrite
from models.dynamic_kanerva_machine import DynamicKanervaMachineGuide, DynamicKanervaMachineModel
from models.kanerva_machine import KanervaMachineGuide, KanervaMachineModel
from models.kanerva_plus_plus import KanervaPlusPlusGuide, KanervaPlusPlusModel
from models.matrix_memory import LinearMemory, MatrixMemoryModel
from models.memory_model import GuideNetworks, MemoryModel
from models.pair import Pair
from models.pseudo_inverse_memory import PseudoInverseMemoryGuide, PseudoInverseMemoryModel
from models.vae import VaeGuide, VaeModel

if TYPE_CHECKING:
    from experiments.config import Config, MemoryConfig

ImageShape = tuple[int, int, int]
Matrix = TypeVar("Matrix", bound=MatrixMemoryModel)
_MATRIX_LATENT_SIZE = (
    100  # of matrix memories and the VAE: 32 rows of it are 3,200 scalars, a read of `allocate` is one
)


@dataclass(frozen=True)
class Parts:
    """What every model is built of.

    Attributes:
        config: the configuration.
        image_shape: (C, H, W).
        dtype: precision of the networks.
        encoder: f_enc, with `encoding_size`.
    """

    config: Config
    image_shape: ImageShape
    dtype: torch.dtype
    encoder: nn.Module

    @property
    def encoding_size(self) -> int:
        """F."""
        return int(self.encoder.encoding_size)  # type: ignore[arg-type]

    @property
    def matrix_latent_size(self) -> int:
        """D of the models whose latents are not as large as a read of blocks."""
        return self.config.memory.latent_size or _MATRIX_LATENT_SIZE

    @property
    def code(self) -> SignCode | None:
        """How latents become the scalars of a block, if not as they are."""
        signs = self.config.memory.signs_per_scalar
        return None if signs is None else SignCode(signs)

    def decoder(self, latent_size: int) -> nn.Module:
        """p(x | z)."""
        network = self.config.network
        return NETWORKS[network.networks][1](latent_size, self.image_shape, network.width, network.depth)

    def key_prior(self, *key_shape: int) -> KeyPrior:
        """p(y)."""
        return KEY_PRIORS[self.config.program.key_prior](Size(key_shape), self.image_shape)

    def key_posterior(self, *key_shape: int) -> Posterior:
        """The family of q(y | x)."""
        return POSTERIORS[self.config.program.key_guide](self.encoding_size, Size(key_shape))

    def guide_networks(self, model: MemoryModel, read_size: int, latent_size: int) -> GuideNetworks:
        """What the guide of a model is made of, whose reads are so large."""
        program, size = self.config.program, self.encoding_size
        latents = POSTERIORS[program.latent_guide](size, Size([latent_size]))
        sees_read = program.latent_context == "image_and_read"
        correction = LatentCorrection(size, read_size, latent_size, size) if sees_read else None
        return GuideNetworks(self.encoder, size, latents, correction, tuple(self._preparations(model)), self.dtype)

    def _preparations(self, model: MemoryModel) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
        """What is done to contents before they are written."""
        program = self.config.program
        if program.content_steps and self.code:
            yield SignRefinement(model.image_likelihood, program.content_steps)
        elif program.content_steps:
            yield LatentRefinement(model.image_likelihood, program.content_steps, program.content_step_size)


def build_networks(config: Config, image_shape: ImageShape, dtype: torch.dtype) -> Parts:
    """Draw the encoder, and keep what the rest is drawn from."""
    return Parts(config, image_shape, dtype, EPISODE_ENCODERS[config.network.episode_encoder](config, image_shape))


def _encoder(config: Config, image_shape: ImageShape, shift_fraction: float = 0.0) -> Any:
    network = config.network
    return NETWORKS[network.networks][0](image_shape, network.width, network.depth, shift_fraction)


def _shifting_encoder(config: Config, image_shape: ImageShape) -> nn.Module:
    return _encoder(config, image_shape, config.network.temporal_shift)


def _attentive_encoder(config: Config, image_shape: ImageShape) -> nn.Module:
    return AttentiveEncoder(_encoder(config, image_shape), config.network.depth)


def layout_of(memory: MemoryConfig) -> MemoryLayout:
    """Sizes of a block memory. Raises InputError for impossible ones."""
    return MemoryLayout(
        memory.memory_channels,
        memory.memory_height,
        memory.memory_width,
        memory.block_height,
        memory.block_width,
        memory.reads,
    )


def _kanerva_plus_plus(parts: Parts) -> Pair:
    memory = parts.config.memory
    layout = layout_of(memory)
    write = WRITES[memory.write](parts, layout)
    decoder = parts.decoder(write.latent_size)
    reading = LATENT_PRIORS[parts.config.program.latent_prior](parts, layout, write.latent_size)
    latent_size = int(reading.latent_size)  # type: ignore[arg-type]
    if parts.config.memory.semantic_reads:
        decoder = DecoderOfHalves(decoder, parts.decoder(write.latent_size), latent_size)
    prior = parts.key_prior(layout.reads, KEY_SIZE)
    model = KanervaPlusPlusModel(write.addressing, reading, prior, decoder, parts.image_shape, parts.dtype)
    networks = parts.guide_networks(model, layout.read_scalars, latent_size)
    return Pair(model, KanervaPlusPlusGuide(networks, write, model.block_priors))


def _allocate(parts: Parts, layout: MemoryLayout) -> Write:
    return _block_write(AllocateWrite, parts, layout)


def _allocate_by_content(parts: Parts, layout: MemoryLayout) -> Write:
    return _block_write(AllocateByContentWrite, parts, layout)


def _block_write(kind: type[BlockWrite], parts: Parts, layout: MemoryLayout) -> Write:
    _require_room(parts.config, layout)
    memory = parts.config.memory
    return kind(
        layout,
        parts.encoding_size,
        memory.smallest_scale,
        dtype=parts.dtype,
        code=parts.code,
        semantic=memory.semantic_reads,
    )


def _require_room(config: Config, layout: MemoryLayout) -> None:
    """Raise InputError for latents of another size than a read, and say so if images have to share blocks."""
    latent_size, size = config.memory.latent_size, layout.read_scalars * (config.memory.signs_per_scalar or 1)
    if latent_size not in (None, size):
        what = "signs" if config.memory.signs_per_scalar else "scalars"
        raise InputError(
            f"--latent-size: expected the {size} {what} of a read with --write {config.memory.write}, "
            f"found {latent_size}"
        )
    reads = config.data.episode_length * layout.reads
    if reads > layout.blocks:
        remark = f"note: {reads} reads of an episode share the memory's {layout.blocks} blocks, which hold averages"
        print(remark, file=sys.stderr)


def _feed_forward(parts: Parts, layout: MemoryLayout) -> Write:
    _require_room(parts.config, layout)
    keys = parts.key_posterior(layout.reads, KEY_SIZE)
    smallest = parts.config.memory.smallest_scale
    return FeedForwardWrite(layout, parts.encoding_size, smallest, keys, parts.dtype, parts.code)


def _prior_from_memory(parts: Parts, layout: MemoryLayout, _latent_size: int) -> nn.Module:
    memory = parts.config.memory
    smallest = memory.smallest_scale
    reading = IdentityReading(layout, smallest, parts.code)  # a block holds a latent as it is
    return SemanticReading(reading, parts.config.network.width, smallest) if memory.semantic_reads else reading


def _standard_normal_prior(_parts: Parts, _layout: MemoryLayout, latent_size: int) -> nn.Module:
    return NoReading(latent_size)


def _kanerva_machine(parts: Parts) -> Pair:
    program = parts.config.program
    addresses = RowAddresses(program.key_size, program.memory_rows)
    model, networks = _matrix_parts(parts, KanervaMachineModel, program.key_size, addresses)
    return Pair(model, KanervaMachineGuide(model.linear, networks, parts.key_posterior(program.key_size)))


def _dynamic_kanerva_machine(parts: Parts) -> Pair:
    program = parts.config.program
    model, networks = _matrix_parts(parts, DynamicKanervaMachineModel, program.memory_rows)
    return Pair(model, DynamicKanervaMachineGuide(model.linear, networks, program.write_passes))


def _pseudo_inverse_memory(parts: Parts) -> Pair:
    program = parts.config.program
    model, networks = _matrix_parts(parts, PseudoInverseMemoryModel, program.memory_rows)
    return Pair(model, PseudoInverseMemoryGuide(model.linear, networks, program.pseudo_inverse_steps))


def _matrix_parts(
    parts: Parts, kind: type[Matrix], key_size: int, addresses: nn.Module | None = None
) -> tuple[Matrix, GuideNetworks]:
    """A model with a matrix memory, whose reads are as large as latents, and what its guide is made of."""
    rows, size = parts.config.program.memory_rows, parts.matrix_latent_size
    prior, decoder = parts.key_prior(key_size), parts.decoder(size)
    smallest = parts.config.memory.smallest_scale
    linear = LinearMemory(rows, size, addresses, smallest)
    model = kind(linear, prior, decoder, parts.image_shape, parts.dtype)
    return model, parts.guide_networks(model, size, size)


def _vae(parts: Parts) -> Pair:
    size, smallest = parts.matrix_latent_size, parts.config.memory.smallest_scale
    model = VaeModel(size, parts.decoder(size), parts.image_shape, parts.dtype)
    return Pair(model, VaeGuide(parts.guide_networks(model, 0, size), size, smallest))


MODELS: dict[str, Callable[[Parts], Pair]] = {
    "kanerva_plus_plus": _kanerva_plus_plus,
    "kanerva_machine": _kanerva_machine,
    "dynamic_kanerva_machine": _dynamic_kanerva_machine,
    "pseudo_inverse_memory": _pseudo_inverse_memory,
    "vae": _vae,
}
WRITES: dict[str, Callable[[Parts, MemoryLayout], Write]] = {
    "allocate": _allocate,
    "allocate_by_content": _allocate_by_content,
    "feed_forward": _feed_forward,
}
LATENT_PRIORS: dict[str, Callable[[Parts, MemoryLayout, int], nn.Module]] = {
    "memory": _prior_from_memory,
    "standard_normal": _standard_normal_prior,
}
EPISODE_ENCODERS: dict[str, Callable[[Config, ImageShape], nn.Module]] = {
    "independent": _encoder,
    "temporal_shift": _shifting_encoder,
    "attention": _attentive_encoder,
}
NETWORKS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "mlp": (MlpEncoder, MlpDecoder),
    "conv": (ConvEncoder, ConvDecoder),
}
