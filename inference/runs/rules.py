"""Validation across the parts of a configuration: combinations that cannot work, and fields without effect.

Each part checks its own types and ranges. Properties of a model, a write, a prior, ... are in its registry entry.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any, Protocol

from inference.objectives import OBJECTIVES
from inference.runs.config_parts import DataConfig, TrainingConfig
from inference.runs.presets import preset_of
from kpp_pyro.config_part import flag
from kpp_pyro.data import DATASETS, OptionalBinarization
from kpp_pyro.errors import InputError
from kpp_pyro.likelihoods import LIKELIHOODS
from kpp_pyro.networks import EPISODE_ENCODERS, NETWORKS
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.priors import KEY_PRIORS, LATENT_PRIORS, MEMORY_PRIORS
from kpp_pyro.writes import WRITES
from models.config import MemoryConfig, NetworkConfig, ProgramConfig
from models.registry import MODELS

Conflict = tuple[str, str, object]  # a field, its expected value, and its value
_EXACT = 2**22  # levels of a scalar times pixels along a side: up to this, reads are exact in float32


class AllParts(Protocol):
    """Every part of a configuration, see `inference.Config`."""

    @property
    def program(self) -> ProgramConfig:
        """The model, its priors and its guide."""

    @property
    def memory(self) -> MemoryConfig:
        """The block memory."""

    @property
    def network(self) -> NetworkConfig:
        """Encoder and decoder."""

    @property
    def data(self) -> DataConfig:
        """Images and episodes."""

    @property
    def training(self) -> TrainingConfig:
        """Optimisation."""

    def flat(self) -> dict[str, Any]:
        """Every field by its name."""

    def defaults(self) -> dict[str, Any]:
        """The default of every field by its name."""


def require_consistent(config: AllParts) -> None:
    """Raise InputError, naming the flag, for the first conflict between parts."""
    for name, expected, found in _conflicts(config):
        raise InputError(f"{flag(name)}: expected {expected}, found {found}")


def require_data_read(config: AllParts, given: Container[str]) -> None:
    """Raise InputError if a folder or file of data is given for a data set that reads none.

    Args:
        config: names the data set.
        given: names of the fields that the user has set; the folder of any other configuration is not meant.
    """
    dataset = config.data.dataset
    if "data_dir" in given and not DATASETS[dataset].reads_data_dir:
        remedy = "--dataset folder or array takes your own images"
        found = config.data.data_dir
        raise InputError(
            f"{flag('data_dir')}: expected none with --dataset {dataset}, which reads no files, found {found}; {remedy}"
        )


def _conflicts(config: AllParts) -> Iterator[Conflict]:
    """Every field whose value another field rules out."""
    yield from _idle_fields(config)
    yield from _conflicts_of_keys(config)
    yield from _conflicts_of_latents(config)
    yield from _conflicts_of_sizes(config)
    yield from _conflicts_of_objectives(config)
    yield from _conflicts_of_networks(config)
    yield from _conflicts_of_signs(config)
    if has_blocks(config):
        yield from _conflicts_of_memories(config)
        yield from _conflicts_of_read_latents(config)
        yield from _conflicts_of_sequences(config)


def _idle_fields(config: AllParts) -> Iterator[Conflict]:
    """Fields that have no effect here, but not their default."""
    values, standard, model = config.flat(), config.defaults(), config.program.model
    idle = values.keys() & set().union(*(kind.settings for kind in MODELS.values())) - MODELS[model].settings
    if any(values[name] != standard[name] for name in idle):
        expected = {**standard, **preset_of(values)}  # all of a data set's layout of the memory, or nothing of it
        for name in values:  # in the fields' order
            if name in idle and values[name] != expected[name]:
                yield name, f"{expected[name]}, its default, with --model {model}, which does not use it", values[name]
    dataset, encoder = config.data.dataset, config.network.episode_encoder
    source = DATASETS[dataset]
    if source.sizes and values["image_size"] not in source.sizes:
        yield "image_size", f"one of {', '.join(map(str, source.sizes))} with --dataset {dataset}", values["image_size"]
    if not source.own and not source.sizes and values["image_size"] != standard["image_size"]:
        what = f"{standard['image_size']}, its default, with --dataset {dataset}, whose images have their own size"
        yield "image_size", what, values["image_size"]
    for name in ("test_share", "dark_on_light"):
        if not source.own and values[name] != standard[name]:
            what = f"{standard[name]}, its default, with --dataset {dataset}, whose images are not your own"
            yield name, what, values[name]
    for name in ("binarize", "test_binarize"):
        if not is_binary(config) and values[name] != standard[name]:
            what = (
                f"{standard[name]}, its default, with --likelihood {config.program.likelihood}, which does not use it"
            )
            yield name, what, values[name]
    if not EPISODE_ENCODERS[encoder].shifts and values["temporal_shift"] != standard["temporal_shift"]:
        what = f"{standard['temporal_shift']}, its default, with --episode-encoder {encoder}, which does not use it"
        yield "temporal_shift", what, values["temporal_shift"]


def _conflicts_of_keys(config: AllParts) -> Iterator[Conflict]:
    program, write, standard = config.program, WRITES[config.memory.write], config.defaults()["key_guide"]
    blocks = has_blocks(config)
    if blocks and write.points_at_blocks and program.key_guide != standard:
        what = f"{standard}, its default, with --write {config.memory.write}, whose keys point at blocks"
        yield "key_guide", what, program.key_guide
    from_images = not write.points_at_blocks if blocks else MODELS[program.model].keys_from_images
    if KEY_PRIORS[program.key_prior].made_of_guide and not from_images:
        where = f"--write {config.memory.write}" if blocks else f"--model {program.model}"
        yield "key_prior", f"a prior that does not use the guide's keys with {where}", program.key_prior


def _conflicts_of_latents(config: AllParts) -> Iterator[Conflict]:
    program, memory = config.program, config.memory
    reads = LATENT_PRIORS[program.latent_prior].reads
    if program.latent_context == "image_and_read" and not reads:
        yield "latent_context", "image, since nothing is read", program.latent_context
    size = memory.read_size
    if has_blocks(config) and memory.latent_size not in (None, size):
        what = "packed latents" if memory.signs_per_scalar else "scalars"
        yield "latent_size", f"the {size} {what} of a read with --write {memory.write}", memory.latent_size


def _conflicts_of_sizes(config: AllParts) -> Iterator[Conflict]:
    """Priors and families that need more scalars, as a flow does: it transforms half of them by the other half."""
    program, memory = config.program, config.memory
    field = MODELS[program.model].key_scalars
    keys = None if field is None else getattr(program, field)
    parts: list[tuple[str, Any, int | None, str]] = [
        ("key_prior", KEY_PRIORS, keys, "keys"),
        ("key_guide", POSTERIORS, keys, "keys"),
        ("latent_guide", POSTERIORS, memory.latents, "latents"),
    ]
    for name, registry, size, what in parts:
        chosen = getattr(program, name)
        if size is not None and size < registry[chosen].smallest_event:
            yield name, f"one for {what} of {size} scalar{'s' * (size > 1)}", chosen


def _conflicts_of_objectives(config: AllParts) -> Iterator[Conflict]:
    program, training = config.program, config.training
    objective = OBJECTIVES[training.objective]
    if objective.closed_kls:
        parts: dict[str, Any] = {"key_prior": KEY_PRIORS, "key_guide": POSTERIORS, "latent_guide": POSTERIORS}
        for name, registry in parts.items():
            chosen = getattr(program, name)
            if not registry[chosen].closed_kl:
                yield name, f"a normal with --objective {training.objective}, which needs KLs in closed form", chosen
        points = has_blocks(config) and WRITES[config.memory.write].points_at_blocks
        if points and not KEY_PRIORS[program.key_prior].closed_block_kl:
            what = f"a standard normal with --objective {training.objective}, for keys that point at blocks"
            yield "key_prior", what, program.key_prior
    if objective.independent_draws and program.latent_context != "image":
        what = f"image with --objective {training.objective}, which needs independent draws"
        yield "latent_context", what, program.latent_context
    if not objective.takes_particles and training.particles > 1:
        yield "particles", f"1 with --objective {training.objective}", training.particles
    order = config.defaults()["renyi_alpha"]
    if not objective.takes_alpha and training.renyi_alpha != order:
        what = f"{order}, its default, with --objective {training.objective}, which does not use it"
        yield "renyi_alpha", what, training.renyi_alpha


def _conflicts_of_networks(config: AllParts) -> Iterator[Conflict]:
    network = config.network
    encoder, family = EPISODE_ENCODERS[network.episode_encoder], NETWORKS[network.networks]
    if network.width % family.width_multiple:
        yield "width", f"a multiple of {family.width_multiple} with --networks {network.networks}", network.width
    if network.width % encoder.width_multiple:
        what = f"a multiple of {encoder.width_multiple} with --episode-encoder {network.episode_encoder}"
        yield "width", what, network.width


def _conflicts_of_signs(config: AllParts) -> Iterator[Conflict]:
    memory = config.memory
    if (memory.signs_per_scalar or 1) % memory.signs_per_latent:
        scalar = memory.signs_per_scalar
        what = "1 without --signs-per-scalar" if scalar is None else f"a divisor of --signs-per-scalar {scalar}"
        yield "signs_per_latent", what, memory.signs_per_latent
    if memory.signs_per_scalar is None:
        return
    side = max(memory.memory_height, memory.memory_width)
    if side << memory.signs_per_scalar > _EXACT:
        what = f"fewer for a memory of {side} pixels along a side, where reads round positions"
        yield "signs_per_scalar", what, memory.signs_per_scalar
    if what := none_where_shared(config):
        yield "signs_per_scalar", what, memory.signs_per_scalar


def _conflicts_of_memories(config: AllParts) -> Iterator[Conflict]:
    """A memory has a flat prior and is a point, or it has a prior, is random, and has a block for each image."""
    program, memory, training, standard = config.program, config.memory, config.training, config.defaults()
    is_flat, is_point = MEMORY_PRIORS[program.memory_prior].build is None, program.memory_guide == "point"
    if is_flat and not is_point:
        yield "memory_guide", "point with --memory-prior flat, to which no density has a KL", program.memory_guide
    if is_point and not is_flat:
        what = f"normal with --memory-prior {program.memory_prior}: a point has no KL to it"
        yield "memory_guide", what, program.memory_guide
    if is_point:
        for name in ("kl_memory_weight", "kl_memory_start"):
            if getattr(training, name) != standard[name]:
                what = f"{standard[name]}, its default, with --memory-guide point, whose memory has no KL"
                yield name, what, getattr(training, name)
        return
    if not WRITES[memory.write].in_order:
        what = f"flat with --write {memory.write}, whose blocks are not in the order of the images"
        yield "memory_prior", what, program.memory_prior
    expected = {"reads": 1, "signs_per_scalar": None, "content_steps": 0, "training_content_steps": 0}
    for name, value in expected.items():
        if config.flat()[name] != value:
            what = f"{str(value).lower()} with --memory-prior {program.memory_prior}, whose memory is random"
            yield name, what, config.flat()[name]
    reads, blocks = reads_and_blocks(config)
    if reads > blocks and memory.reads == 1:
        what = f"at most {blocks}, the blocks of the memory, with --memory-prior {program.memory_prior}"
        yield "episode_length", what, reads
    if OBJECTIVES[training.objective].closed_kls and not MEMORY_PRIORS[program.memory_prior].closed_kl:
        what = f"one with a closed KL with --objective {training.objective}"
        yield "memory_prior", what, program.memory_prior


def _conflicts_of_read_latents(config: AllParts) -> Iterator[Conflict]:
    """Latents that are what is read have no posterior, and no gradient through packed signs."""
    program, values, standard = config.program, config.flat(), config.defaults()
    if not LATENT_PRIORS[program.latent_prior].is_point:
        return
    for name in ("latent_guide", "latent_context", "signs_per_scalar"):
        if values[name] != standard[name]:
            what = f"{str(standard[name]).lower()}, its default, with --latent-prior {program.latent_prior}"
            yield name, f"{what}, whose latents are what is read", values[name]
    if OBJECTIVES[config.training.objective].takes_particles and program.read_order == "sequence":
        what = "trace or mean_field where an image has neither a key nor a latent of its own"
        yield "objective", what, config.training.objective


def _conflicts_of_sequences(config: AllParts) -> Iterator[Conflict]:
    program, values, standard = config.program, config.flat(), config.defaults()
    if program.read_order == "any":
        return
    if not WRITES[config.memory.write].in_order:
        what = f"any with --write {config.memory.write}, whose blocks are not in the order of the images"
        yield "read_order", what, program.read_order
    if what := none_where_shared(config):
        yield "read_order", what.replace("none", "any", 1), program.read_order
    for name in ("key_prior", "kl_key_start"):
        if values[name] != standard[name]:
            what = f"{standard[name]}, its default, with --read-order sequence, in which images have no keys"
            yield name, what, values[name]


def none_where_shared(config: AllParts) -> str:
    """What to expect of a field that needs a block for each read; empty if every read of an episode has one."""
    reads, blocks = reads_and_blocks(config)
    if reads <= blocks:
        return ""
    return f"none where {reads} reads of an episode share {blocks} blocks, which then hold means"


def reads_and_blocks(config: AllParts) -> tuple[int, int]:
    """Reads of an episode, T R, and blocks of a memory; more reads than blocks have to share blocks."""
    return config.data.images_per_episode * config.memory.reads, config.memory.layout.blocks


def is_binary(config: AllParts) -> bool:
    """Whether images are binarized: pixels of the likelihood have two levels."""
    return LIKELIHOODS[config.program.likelihood].levels == 2


def binarizations(config: AllParts) -> tuple[OptionalBinarization, OptionalBinarization]:
    """The binarization of training images and of held-out ones; "none" where pixels have more than two levels."""
    return (config.data.binarize, config.data.test_binarize) if is_binary(config) else ("none", "none")


def has_blocks(config: AllParts) -> bool:
    """Whether the model has a block memory, which --write writes."""
    return MODELS[config.program.model].has_blocks
