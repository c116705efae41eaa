"""Configuration of a model/guide pair: one part a concern, each checking itself.

Names of models, writes, priors, ... are those of their registries; a name is known as soon as it is registered.
Rules across parts stand in `inference.runs.rules`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kpp_pyro.config_part import ConfigPart, Count, Natural, flag, name_in
from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import MemoryLayout
from kpp_pyro.memory.matrix import PSEUDO_INVERSE_STEPS
from kpp_pyro.memory.sign_code import MOST_SIGNS
from kpp_pyro.networks import EPISODE_ENCODERS, NETWORKS
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.priors import KEY_PRIORS, LATENT_PRIORS
from kpp_pyro.writes import WRITES
from models.registry import MODELS

Size = Literal["tiny", "small", "medium", "base"]


class ProgramConfig(ConfigPart):
    """The model, its priors and its guide."""

    model: Annotated[str, name_in(MODELS)] = "kanerva_plus_plus"
    """Which memory; the rivals are matrices of --memory-rows x --latent-size scalars (32 x 100), and vae has none."""
    key_prior: Annotated[str, name_in(KEY_PRIORS)] = "standard_normal"
    """p(y): standard_normal, learned_gaussian, vamp (a mixture of the keys of learned pseudo-episodes) or flow."""
    latent_prior: Annotated[str, name_in(LATENT_PRIORS)] = "memory"
    """p(z | M, y) from what is read; or standard_normal, a control that reads nothing."""
    key_guide: Annotated[str, name_in(POSTERIORS)] = "mean_field"
    """The family of q(y | x): mean_field, low_rank (Gaussian) or flow (conditional normalising flow)."""
    latent_guide: Annotated[str, name_in(POSTERIORS)] = "mean_field"
    """The family of q(z | x), likewise."""
    latent_context: Literal["image", "image_and_read"] = "image"
    """What the latent's guide sees: q(z | x), or q(z | x, M, y)."""
    content_steps: Natural = 0
    """Gradient steps by which each image's content is improved, through the decoder, before it is written; of signs,
    the number that are tried. None are taken in training: a trained run can be scored with any number of them."""
    memory_rows: Count = 32
    """N, rows of a matrix memory."""
    key_size: Count = 32
    """S, numbers of a key of --model kanerva_machine, which a learned projection turns into weights of the rows."""
    write_passes: Count = 1
    """Times that --model dynamic_kanerva_machine goes through an episode to write it."""
    pseudo_inverse_steps: Count = PSEUDO_INVERSE_STEPS
    """Steps of the iteration by which --model pseudo_inverse_memory inverts. More are more exact, but training diverges
    where contents that are still alike are told apart exactly."""


class MemoryConfig(ConfigPart):
    """The block memory of Kanerva++ and how it is written."""

    write: Annotated[str, name_in(WRITES)] = "allocate"
    """allocate gives each image a block of its own, in order; allocate_by_content chooses blocks by what the images
    are, so that similar images share; feed_forward is the paper's learned map onto the memory, with normal keys, by
    which images claim blocks."""
    memory_channels: Count = 4
    """C_m; the memory has C_m x H_m x W_m scalars."""
    memory_height: Count = 20
    """H_m."""
    memory_width: Count = 40
    """W_m."""
    block_height: Count = 5
    """h, height of the block that a key reads."""
    block_width: Count = 5
    """w, width of the block that a key reads."""
    reads: Count = 1
    """R, blocks read per image, each through a key of its own."""
    signs_per_scalar: Annotated[int, Field(ge=1, le=MOST_SIGNS)] | None = None
    """Latents are signs, +1 or -1, and so many (1 to 16) are packed into each scalar of a block; numbers, one to a
    scalar, if None. For memories of few scalars: a decoder tells signs apart where it cannot tell levels. Makes
    mean_field the default of --objective, since single draws of the latent's KL say nothing of signs."""
    semantic_reads: Annotated[float, Field(ge=0, le=0.48, allow_inf_nan=False)] = 0.0
    """Prior probability of a key whose scale says that its block is read for what it tells of images that were not
    written: 0, or 0.01 to 0.48. Train with --left-out then."""
    latent_size: Count | None = None
    """D, size of an image's latent. None: with Kanerva++ as many scalars (or signs) as are read, 100 with other models.
    With --semantic-reads, of one of its two halves."""

    @model_validator(mode="after")
    def _check_layout(self) -> MemoryConfig:
        self.layout.require_tiling()
        if 0 < self.semantic_reads < 0.01:  # rarer ones would hardly ever be learned from
            found = self.semantic_reads
            raise InputError(f"{flag('semantic_reads')}: expected 0, or a probability from 0.01 to 0.48, found {found}")
        return self

    @property
    def layout(self) -> MemoryLayout:
        """Sizes of the block memory."""
        sizes = (self.memory_channels, self.memory_height, self.memory_width, self.block_height, self.block_width)
        return MemoryLayout(*sizes, self.reads)


class NetworkConfig(ConfigPart):
    """Encoder and decoder."""

    networks: Annotated[str, name_in(NETWORKS)] = "mlp"
    """mlp (LayerNorm; much the cheaper on a CPU) or conv (GroupNorm; image sides multiples of 4, 16 to 64)."""
    preset: Size = "tiny"
    """Sets --width and --depth where they are not given."""
    width: Count = 256
    """Units of an MLP, or channels at half resolution."""
    depth: Count = 1
    """Residual blocks (at each resolution), and layers of attention where there is any."""
    episode_encoder: Annotated[str, name_in(EPISODE_ENCODERS)] = "independent"
    """What an encoding knows of the other images: nothing (independent), its neighbours' channels (temporal_shift, the
    paper's), or all of them in no order (attention)."""
    temporal_shift: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.125
    """Share of its channels that --episode-encoder temporal_shift takes from the previous image, and from the next."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_sizes(cls, values: Any) -> Any:
        """Width and depth, where they are not given, are the family's of this preset."""
        if not isinstance(values, dict):
            return values
        family = NETWORKS.get(str(values.get("networks", "mlp")))
        sizes = family.sizes.get(str(values.get("preset", "tiny"))) if family else None
        return values if sizes is None else {"width": sizes[0], "depth": sizes[1], **values}


class PairConfig(ConfigPart):
    """What a model/guide pair is built from, but for the shape of its images."""

    program: ProgramConfig = ProgramConfig()
    memory: MemoryConfig = MemoryConfig()
    network: NetworkConfig = NetworkConfig()
    seed: Natural = 0
    """Seed of parameters, episodes and noise."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the networks; everything else is float32. auto takes bfloat16 where the machine is fast at it."""
