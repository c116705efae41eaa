"""Configuration of a model/guide pair, in parts; each part validates its own fields.

Names of models, writes, priors, ... are the keys of their registries. Rules across parts are in `inference.runs.rules`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kpp_pyro.config_part import ConfigPart, name_in
from kpp_pyro.likelihoods import LIKELIHOODS
from kpp_pyro.memory.blocks import MemoryLayout
from kpp_pyro.memory.matrix import PSEUDO_INVERSE_STEPS
from kpp_pyro.memory.sign_code import MOST_SIGNS, SignCode
from kpp_pyro.networks import EPISODE_ENCODERS, NETWORKS
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.priors import KEY_PRIORS, LATENT_PRIORS, MEMORY_PRIORS
from kpp_pyro.schema import Count, Natural
from kpp_pyro.writes import WRITES
from models.registry import MODELS

Size = Literal["tiny", "small", "medium", "base"]


class ProgramConfig(ConfigPart):
    """The model, its priors and its guide."""

    model: Annotated[str, name_in(MODELS)] = "kanerva_plus_plus"
    """The memory model. vae and two_layer_vae have no memory; the memories of kanerva_machine, dynamic_kanerva_machine
    and pseudo_inverse_memory are matrices, --memory-rows x --latent-size (32 x 100)."""
    likelihood: Annotated[str, name_in(LIKELIHOODS)] = "bernoulli"
    """p(x | z). Pixels are independent with bernoulli (binary pixels), with discretized_logistic (256 grey levels, the
    channels of a pixel coupled) and with discretized_logistic_mixture (ten of these for each pixel). With
    local_bernoulli (binary pixels) and local_autoregressive (256 grey levels), each pixel is predicted from four
    neighbours too: images cost fewer bits, and latents hold less of them."""
    memory_prior: Annotated[str, name_in(MEMORY_PRIORS)] = "flat"
    """p(M), of the blocks of Kanerva++. flat: scores are conditional on the memory. standard_normal, or autoregressive,
    a learned prior that predicts each block from the blocks before it: the complete score includes the KL of the
    memory. Both set --memory-guide normal, --latent-prior read and --read-order sequence."""
    memory_guide: Literal["point", "normal"] = "point"
    """q(M | X): a point, for a flat prior; or a normal around what is written, with a learned scale."""
    read_order: Literal["any", "sequence"] = "any"
    """What an image of the written episode reads: any block, by a key whose KL is about ln T nats; or block t for
    image t, without a key. Cues are read by keys with both."""
    key_prior: Annotated[str, name_in(KEY_PRIORS)] = "standard_normal"
    """p(y): standard_normal, learned_gaussian, vamp (a mixture of the keys of learned pseudo-episodes) or flow."""
    latent_prior: Annotated[str, name_in(LATENT_PRIORS)] = "memory"
    """p(z | M, y): memory, a normal around what is read; read, exactly what is read; or standard_normal, a control that
    reads nothing."""
    key_guide: Annotated[str, name_in(POSTERIORS)] = "mean_field"
    """The family of q(y | x): mean_field, low_rank (Gaussian) or flow (conditional normalising flow)."""
    latent_guide: Annotated[str, name_in(POSTERIORS)] = "mean_field"
    """The family of q(z | x); the same choices."""
    latent_context: Literal["image", "image_and_read"] = "image"
    """The latent's posterior: q(z | x), or q(z | x, M, y)."""
    encoder_steps: Annotated[Natural, Field(le=100)] = 0
    """Learned steps of the encoder, in training too: networks that improve each latent by what the decoder makes of it
    (iterative amortized inference). A step of training then costs about as much again for each of them."""
    content_steps: Annotated[Natural, Field(le=10**4)] = 0
    """Content steps: gradient steps, through the decoder, on each image's content before it is written; with
    --signs-per-scalar, the number of signs tried. They are for scores; training takes --training-content-steps."""
    training_content_steps: Annotated[Natural, Field(le=10**4)] = 0
    """Content steps in training, too: the decoder learns what the steps find, and the encoder is not told. For a run
    that is trained already (--start-from), and scored with --content-steps; in one pass, images then cost more."""
    memory_rows: Annotated[Count, Field(le=10**4)] = 32
    """N, rows of a matrix memory."""
    key_size: Annotated[Count, Field(le=10**4)] = 32
    """S, numbers in a key: of --model kanerva_machine, where a learned projection maps them to row weights, and of
    --model two_layer_vae, where they are the upper latent."""
    write_passes: Annotated[Count, Field(le=1000)] = 1
    """Passes over an episode in the write of --model dynamic_kanerva_machine."""
    pseudo_inverse_steps: Annotated[Count, Field(le=10**4)] = PSEUDO_INVERSE_STEPS
    """Steps of the iterative pseudo-inverse of --model pseudo_inverse_memory. More steps are more exact; but early in
    training contents are nearly equal, and their exact inverse makes training diverge."""


class MemoryConfig(ConfigPart):
    """The block memory of Kanerva++ and how it is written."""

    write: Annotated[str, name_in(WRITES)] = "allocate"
    """allocate gives each image its own block, in order; allocate_by_content chooses blocks by content, so that
    similar images share one; feed_forward is the paper's learned map onto the memory, in which images claim blocks by
    normal keys."""
    memory_channels: Annotated[Count, Field(le=10**4)] = 4
    """C_m; the memory has C_m x H_m x W_m scalars."""
    memory_height: Annotated[Count, Field(le=10**4)] = 20
    """H_m, in scalars."""
    memory_width: Annotated[Count, Field(le=10**4)] = 40
    """W_m, in scalars."""
    block_height: Annotated[Count, Field(le=10**4)] = 5
    """h, height of a block."""
    block_width: Annotated[Count, Field(le=10**4)] = 5
    """w, width of a block."""
    reads: Annotated[Count, Field(le=1000)] = 1
    """R, blocks read per image; a key has (scale, column, row) for each."""
    signs_per_scalar: Annotated[int, Field(ge=1, le=MOST_SIGNS)] | None = None
    """P (1 to 16): latents are signs, +1 or -1, packed P to each scalar of a block. None: latents are numbers, one to a
    scalar. For memories of few scalars: a decoder distinguishes signs where it cannot distinguish levels. Makes
    mean_field the default of --objective, since a single draw of the latent's KL carries no information about signs."""
    signs_per_latent: Annotated[int, Field(ge=1, le=MOST_SIGNS)] = 1
    """b: with --signs-per-scalar P, b signs make one latent of 2^b even levels between -1 and 1, and a scalar packs
    P / b latents. More levels are learned more easily, and fewer latents are needed for as many bits."""
    latent_size: Annotated[Count, Field(le=10**6)] | None = None
    """D, size of an image's latent. None: the number of scalars (or of packed latents) that a key reads; other models
    take that of Kanerva++, 100, or 800 for data sets in colour."""

    @model_validator(mode="after")
    def _check_layout(self) -> MemoryConfig:
        self.layout.require_tiling()
        return self

    @property
    def layout(self) -> MemoryLayout:
        """Sizes of the memory, its blocks and its reads."""
        sizes = (self.memory_channels, self.memory_height, self.memory_width, self.block_height, self.block_width)
        return MemoryLayout(*sizes, self.reads)

    @property
    def read_size(self) -> int:
        """Scalars, or packed latents, of the R blocks that a key reads."""
        return self.layout.read_scalars * (self.code.latents if self.code else 1)

    @property
    def code(self) -> SignCode | None:
        """The code that packs latents into the scalars of a block; None if latents are numbers."""
        return None if self.signs_per_scalar is None else SignCode(self.signs_per_scalar, self.signs_per_latent)

    @property
    def latents(self) -> int:
        """D: `latent_size`, or else as many numbers as a key reads."""
        return self.latent_size or self.read_size


_DEFAULT_SIZES = NETWORKS["mlp"].sizes["tiny"]


class NetworkConfig(ConfigPart):
    """Encoder and decoder."""

    networks: Annotated[str, name_in(NETWORKS)] = "mlp"
    """mlp (LayerNorm; much cheaper on a CPU), patches (tokens of 4x4 pixels, mixed by MLPs; for colour on a CPU) or
    conv (GroupNorm). Image sides are multiples of 4, from 16 to 64."""
    preset: Size = "tiny"
    """Size that sets --width and --depth where they are not given."""
    width: Annotated[Count, Field(le=2**16)] = _DEFAULT_SIZES[0]
    """Units of an MLP, channels of a patch, or channels at half resolution."""
    depth: Annotated[Count, Field(le=1000)] = _DEFAULT_SIZES[1]
    """Residual blocks (at each resolution; pairs of them for patches), and attention layers with
    --episode-encoder attention."""
    episode_encoder: Annotated[str, name_in(EPISODE_ENCODERS)] = "independent"
    """What an image's encoding depends on: that image alone (independent), channels of its neighbours too
    (temporal_shift, the paper's), or all images regardless of order (attention)."""
    temporal_shift: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.125
    """Share of its channels that --episode-encoder temporal_shift takes from the previous image, and from the next."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_sizes(cls, values: Any) -> Any:
        """Set width and depth, where they are not given, to those of the networks at this preset."""
        if not isinstance(values, dict):
            return values
        chosen = {name: cls.model_fields[name].default for name in ("networks", "preset")} | values
        family = NETWORKS.get(str(chosen["networks"]))
        sizes = family.sizes.get(str(chosen["preset"])) if family else None
        return values if sizes is None else {"width": sizes[0], "depth": sizes[1], **values}


class PairConfig(ConfigPart):
    """Everything a model/guide pair is built from, except the image shape."""

    program: ProgramConfig = ProgramConfig()
    memory: MemoryConfig = MemoryConfig()
    network: NetworkConfig = NetworkConfig()
    seed: Natural = 0
    """Seed of initial parameters, episodes and random draws."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the networks; all else is float32. auto is bfloat16 where the device computes it fast."""
