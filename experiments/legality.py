"""Which configurations make sense: numbers that a run can use, and parts that go together."""

from __future__ import annotations

import math
from collections.abc import Iterator

from experiments.config import Config, MemoryConfig, ProgramConfig, TrainingConfig, flat
from experiments.programs import layout_of
from kpp_pyro.errors import InputError
from kpp_pyro.key_priors import KEY_PRIORS
from kpp_pyro.networks.attention import ATTENTION_HEADS
from kpp_pyro.networks.shapes import require_image_shape
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.quantization import LARGEST_BITS, SMALLEST_BITS
from kpp_pyro.sign_code import MOST_SIGNS

_POINTERS = ("allocate", "allocate_by_content")  # writes whose keys point at known blocks
_EXACT = 2**22  # levels of a scalar times pixels along a side, at which reads are exact in float32
_SOLVED_KEYS = ("dynamic_kanerva_machine", "pseudo_inverse_memory")
_BLOCK_SIZES = ("memory_channels", "memory_height", "memory_width", "block_height", "block_width", "reads")
_RANDOM = ("kanerva_machine", *_SOLVED_KEYS)
_USED_BY = {  # numbers, and the models that they make a difference to
    (*_BLOCK_SIZES, "signs_per_scalar", "semantic_reads", "left_out"): ("kanerva_plus_plus",),
    ("content_steps", "content_step_size"): ("kanerva_plus_plus", *_RANDOM),
    ("kl_key_start", "kl_key_begin_step", "kl_key_ramp_steps"): ("kanerva_plus_plus", *_RANDOM),
    ("memory_rows", "kl_memory_weight"): _RANDOM,
    ("key_size",): ("kanerva_machine",),
    ("write_passes",): ("dynamic_kanerva_machine",),
    ("pseudo_inverse_steps",): ("pseudo_inverse_memory",),
}


def require_sensible(config: Config) -> None:
    """Raise InputError, naming the flag, for a number that no run can use."""
    data, memory, network, training = config.data, config.memory, config.network, config.training
    program = config.program
    at_least_one = {
        "episode-length": data.episode_length,
        "classes-per-episode": 1 if data.classes_per_episode is None else data.classes_per_episode,
        "workers": data.workers,
        "latent-size": 1 if memory.latent_size is None else memory.latent_size,
        "memory-rows": program.memory_rows,
        "key-size": program.key_size,
        "write-passes": program.write_passes,
        "pseudo-inverse-steps": program.pseudo_inverse_steps,
        "width": network.width,
        "depth": network.depth,
        "steps": training.steps,
        "episodes-per-step": training.episodes_per_step,
        "evaluate-every": training.evaluate_every,
        "particles": training.particles,
    }
    for flag, value in at_least_one.items():
        if value < 1:
            raise InputError(f"--{flag}: expected at least 1, found {value}")
    if memory.signs_per_scalar is not None and not 1 <= memory.signs_per_scalar <= MOST_SIGNS:
        signs = memory.signs_per_scalar
        raise InputError(f"--signs-per-scalar: expected 1 to {MOST_SIGNS}, or none, found {signs}")
    require_image_shape((1, data.image_size, data.image_size), "--image-size")
    for flag, positive in {
        "smallest-scale": memory.smallest_scale,
        "content-step-size": program.content_step_size,
        "learning-rate": training.learning_rate,
        "gradient-norm": training.gradient_norm,
    }.items():
        if not 0 < positive < float("inf"):
            raise InputError(f"--{flag}: expected a positive, finite number, found {positive}")
    if not math.isfinite(training.renyi_alpha):
        raise InputError(f"--renyi-alpha: expected a finite number, found {training.renyi_alpha}")
    for flag, not_negative in {
        "seed": config.seed,
        "content-steps": program.content_steps,
        "left-out": training.left_out,
        "weight-decay": training.weight_decay,
        "warmup-steps": training.warmup_steps,
        "kl-key-start": training.kl_key_start,
        "kl-key-begin-step": training.kl_key_begin_step,
        "kl-key-ramp-steps": training.kl_key_ramp_steps,
        "kl-latent-start": training.kl_latent_start,
        "kl-latent-begin-step": training.kl_latent_begin_step,
        "kl-latent-ramp-steps": training.kl_latent_ramp_steps,
        "kl-memory-weight": training.kl_memory_weight,
    }.items():
        if not 0 <= not_negative < 2**63:
            raise InputError(f"--{flag}: expected a number from 0 to 2^63 - 1, found {not_negative}")
    if memory.semantic_reads and not 0.01 <= memory.semantic_reads <= 0.48:  # the median scale reads what was written
        found = memory.semantic_reads
        raise InputError(f"--semantic-reads: expected 0, or a probability from 0.01 to 0.48, found {found}")
    if not 0 <= network.temporal_shift <= 0.5:
        raise InputError(f"--temporal-shift: expected a share from 0 to 0.5, found {network.temporal_shift}")
    if network.networks == "conv" and network.width % 16:
        raise InputError(f"--width: expected a multiple of 16 for --networks conv (GroupNorm), found {network.width}")


def require_legal(config: Config) -> None:
    """Raise InputError, naming the flag, for parts that do not go together."""
    for flag, expected, found in _conflicts(config):
        raise InputError(f"--{flag}: expected {expected}, found {found}")


def _conflicts(config: Config) -> Iterator[tuple[str, str, str]]:
    """Every flag that another one rules out: its name, what was expected, what was found."""
    yield from _conflicts_of_keys(config)
    yield from _conflicts_of_latents(config)
    yield from _conflicts_of_flows(config)
    yield from _conflicts_of_objectives(config)
    memory, network, model = config.memory, config.network, config.program.model
    if model != "kanerva_plus_plus" and memory.write != MemoryConfig.write:
        yield "write", f"no choice with --model {model}, which writes in its own way", memory.write
    if network.episode_encoder == "attention" and network.networks == "mlp" and network.width % ATTENTION_HEADS:
        yield "width", f"a multiple of {ATTENTION_HEADS} with --episode-encoder attention", str(network.width)
    if network.episode_encoder != "temporal_shift" and network.temporal_shift:
        yield "temporal-shift", "--episode-encoder temporal_shift beside it", network.episode_encoder
    yield from _idle_numbers(config)
    yield from _conflicts_of_semantic_reads(config)
    yield from _conflicts_of_signs(config)
    if memory.signs_per_scalar is not None:
        for expected in _shared_blocks(config):
            yield "signs-per-scalar", expected, str(memory.signs_per_scalar)


def _shared_blocks(config: Config) -> Iterator[str]:
    """What is expected instead of packed or rounded contents, where blocks are shared."""
    reads, blocks = config.data.episode_length * config.memory.reads, layout_of(config.memory).blocks
    if reads > blocks:
        yield f"none where {reads} reads of an episode share the memory's {blocks} blocks, which hold means then"


def require_rounding(config: Config, bits: int) -> None:
    """Raise InputError unless what this configuration writes can be rounded to so many bits, by `--content-bits`."""
    for expected in _conflicts_of_rounding(config, bits):
        raise InputError(f"--content-bits: expected {expected}, found {bits}")


def _conflicts_of_rounding(config: Config, bits: int) -> Iterator[str]:
    if not SMALLEST_BITS <= bits <= LARGEST_BITS:
        yield f"{SMALLEST_BITS} to {LARGEST_BITS}, or none"
    if config.program.model != "kanerva_plus_plus":
        yield f"none with --model {config.program.model}, which has no use for it"
    if config.memory.signs_per_scalar is not None:
        yield "none with --signs-per-scalar, which says the bits"
    yield from _shared_blocks(config)


def _conflicts_of_semantic_reads(config: Config) -> Iterator[tuple[str, str, str]]:
    memory = config.memory
    if memory.semantic_reads:
        if memory.write not in _POINTERS:
            yield (
                "semantic-reads",
                f"0 with --write {memory.write}, whose keys are not restricted to blocks",
                str(memory.semantic_reads),
            )
        if memory.reads > 1:
            yield "reads", "1 with --semantic-reads", str(memory.reads)
        if config.program.latent_prior != "memory":
            yield "latent-prior", "memory with --semantic-reads", config.program.latent_prior
    if bool(memory.semantic_reads) != bool(config.training.left_out):
        expected = (
            "images to learn from beside --semantic-reads" if memory.semantic_reads else "0 without --semantic-reads"
        )
        yield "left-out", expected, str(config.training.left_out)


def _conflicts_of_signs(config: Config) -> Iterator[tuple[str, str, str]]:
    memory, program = config.memory, config.program
    if memory.signs_per_scalar is None:
        return
    if program.content_step_size != ProgramConfig.content_step_size:
        what = f"{ProgramConfig.content_step_size}, its default, with --signs-per-scalar, which are turned over"
        yield "content-step-size", what, str(program.content_step_size)
    side = max(memory.memory_height, memory.memory_width)
    if side << memory.signs_per_scalar > _EXACT:
        what = f"fewer for a memory of {side} pixels along a side, as reads round positions in it"
        yield "signs-per-scalar", what, str(memory.signs_per_scalar)


def _idle_numbers(config: Config) -> Iterator[tuple[str, str, str]]:
    """Numbers that would change nothing."""
    model, values, standard = config.program.model, flat(config), flat(Config())
    dataset, size = config.data.dataset, standard["image_size"]
    if dataset != "folder" and values["image_size"] != size:
        what = f"{size}, its default, with --dataset {dataset}, whose images have a size of their own"
        yield "image-size", what, str(values["image_size"])
    for names, models in _USED_BY.items():
        for name in names:
            if model not in models and values[name] != standard[name]:
                what = f"{standard[name]}, its default, with --model {model}, which has no use for it"
                yield name.replace("_", "-"), what, str(values[name])


def _conflicts_of_keys(config: Config) -> Iterator[tuple[str, str, str]]:
    program, write = config.program, config.memory.write
    blocks = program.model == "kanerva_plus_plus" and write in _POINTERS
    prior, guide = program.key_prior, program.key_guide
    if program.model == "vae":
        expected = "{} with --model vae, which has no keys"
    elif program.model in _SOLVED_KEYS:
        expected = f"{{}} with --model {program.model}, whose keys are solved for in a memory"
    elif blocks:
        expected = f"{{}} with --write {write}, whose keys point at known blocks"
    else:
        return
    if guide != "mean_field":
        yield "key-guide", expected.format("mean_field"), guide
    if prior == "vamp" or (program.model == "vae" and prior != "standard_normal"):
        others = "standard_normal" if program.model == "vae" else "a prior that is not made of the guide's keys"
        yield "key-prior", expected.format(others), prior


def _conflicts_of_latents(config: Config) -> Iterator[tuple[str, str, str]]:
    program = config.program
    reads = program.model != "vae" and program.latent_prior == "memory"
    if program.model != "kanerva_plus_plus" and program.latent_prior != "memory":
        yield "latent-prior", f"memory, the model's own prior, with --model {program.model}", program.latent_prior
    if program.latent_context == "image_and_read" and not reads:
        yield "latent-context", "image, since nothing is read", program.latent_context


def _conflicts_of_flows(config: Config) -> Iterator[tuple[str, str, str]]:
    """Flows move half of the numbers by the other half."""
    program, memory = config.program, config.memory
    keys = {"kanerva_machine": program.key_size} | dict.fromkeys(_SOLVED_KEYS, program.memory_rows)
    read = memory.reads * memory.memory_channels * memory.block_height * memory.block_width
    read *= memory.signs_per_scalar or 1
    latents = read if program.model == "kanerva_plus_plus" else None
    for flag, name, size, what in (
        ("key-prior", program.key_prior, keys.get(program.model), "keys"),
        ("key-guide", program.key_guide, keys.get(program.model), "keys"),
        ("latent-guide", program.latent_guide, memory.latent_size or latents, "latents"),
    ):
        if name == "flow" and size == 1:
            yield flag, f"no flow of a single number, as {what} are", name


def _conflicts_of_objectives(config: Config) -> Iterator[tuple[str, str, str]]:
    program, training = config.program, config.training
    if training.objective == "mean_field":
        for flag, name, family in (
            ("key-prior", program.key_prior, KEY_PRIORS),
            ("key-guide", program.key_guide, POSTERIORS),
            ("latent-guide", program.latent_guide, POSTERIORS),
        ):
            if not family[name].closed_kl:
                yield flag, "a normal with --objective mean_field, whose KLs are closed", name
        blocks = program.model == "kanerva_plus_plus" and config.memory.write in _POINTERS
        if blocks and program.key_prior != "standard_normal":
            yield "key-prior", "standard_normal with --objective mean_field, for keys of blocks", program.key_prior
    if training.objective == "dreg" and program.latent_context != "image":
        yield (
            "latent-context",
            "image with --objective dreg, whose draws may not depend on each other",
            "image_and_read",
        )
    if training.objective == "dreg" and config.memory.semantic_reads:
        yield "objective", "one whose draws may depend on each other with --semantic-reads", "dreg"
    if training.objective not in ("iwae", "dreg", "renyi") and training.particles > 1:
        yield "particles", f"1 with --objective {training.objective}", str(training.particles)
    if training.objective != "renyi" and training.renyi_alpha != TrainingConfig.renyi_alpha:
        yield "renyi-alpha", "--objective renyi beside it", training.objective
