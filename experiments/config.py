"""Configuration of a training run: one dataclass per concern, defaults by data set and write."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from experiments.programs import EPISODE_ENCODERS, LATENT_PRIORS, MODELS, NETWORKS, WRITES
from inference.objectives import OBJECTIVES
from inference.processes import processes_here
from kpp_pyro.data import Binarization
from kpp_pyro.errors import InputError
from kpp_pyro.key_priors import KEY_PRIORS
from kpp_pyro.matrix_memory import PSEUDO_INVERSE_STEPS
from kpp_pyro.posteriors import POSTERIORS

DatasetName = Literal["digits", "mnist", "fashion_mnist", "omniglot", "folder"]
Preset = Literal["tiny", "small", "medium", "base"]
if TYPE_CHECKING:  # what is registered is what may be chosen, which no type checker can follow
    ModelName: TypeAlias = str
    WriteName: TypeAlias = str
    KeyPriorName: TypeAlias = str
    LatentPriorName: TypeAlias = str
    PosteriorName: TypeAlias = str
    EpisodeEncoderName: TypeAlias = str
    NetworkFamily: TypeAlias = str
    ObjectiveName: TypeAlias = str
else:
    ModelName = Literal[tuple(MODELS)]
    WriteName = Literal[tuple(WRITES)]
    KeyPriorName = Literal[tuple(KEY_PRIORS)]
    LatentPriorName = Literal[tuple(LATENT_PRIORS)]
    PosteriorName = Literal[tuple(POSTERIORS)]
    EpisodeEncoderName = Literal[tuple(EPISODE_ENCODERS)]
    NetworkFamily = Literal[tuple(NETWORKS)]
    ObjectiveName = Literal[tuple(OBJECTIVES)]

_MOST_WORKERS = 16


def _spare_cores() -> int:
    """Cores for decoding of each process of this machine, beside the one that trains."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cores // processes_here() - 1))


@dataclass(frozen=True)
class DataConfig:
    """Images and episodes."""

    dataset: DatasetName = "digits"
    """Data set. digits comes with scikit-learn, folder is your own pictures in --data-dir; the others are looked for in
    --data-dir, then downloaded."""
    data_dir: Path = Path("data")
    """Folder of the data sets, in torchvision's layout (MNIST/raw, FashionMNIST/raw), OMNIGLOT/chardata.mat. With
    --dataset folder: a tree of pictures, train/ and test/ (validation/ if there is one, else a tenth of train/), in
    class folders or not."""
    image_size: int = 28
    """Side of the images of --dataset folder, in pixels: pictures are scaled and cropped to it."""
    workers: int = _spare_cores()
    """Processes that decode the pictures of --dataset folder, of each process that trains."""
    episode_length: int = 32
    """T, distinct images per episode."""
    classes_per_episode: int | None = None
    """Draw the images of an episode from this many classes; all of them if None."""
    binarize: Binarization = "dynamic"
    """Training images: pixels drawn anew each time (dynamic), once with a fixed seed (static), or cut at 1/2."""
    test_binarize: Binarization = "static"
    """Validation and test images, likewise; dynamic pixels are the same in every pass over them."""
    augment: bool = False
    """Shift and rotate training images a little (up to 2 pixels and 10 degrees)."""


@dataclass(frozen=True)
class ProgramConfig:
    """The model, its priors and its guide."""

    model: ModelName = "kanerva_plus_plus"
    """Which memory; the rivals are matrices of --memory-rows x --latent-size scalars (32 x 100), and vae has none."""
    key_prior: KeyPriorName = "standard_normal"
    """p(y): standard_normal, learned_gaussian, vamp (a mixture of the keys of learned pseudo-episodes) or flow."""
    latent_prior: LatentPriorName = "memory"
    """p(z | M, y) from what is read; or standard_normal, a control that reads nothing."""
    key_guide: PosteriorName = "mean_field"
    """The family of q(y | x): mean_field, low_rank (Gaussian) or flow (conditional normalising flow)."""
    latent_guide: PosteriorName = "mean_field"
    """The family of q(z | x), likewise."""
    latent_context: Literal["image", "image_and_read"] = "image"
    """What the latent's guide sees: q(z | x), or q(z | x, M, y)."""
    content_steps: int = 0
    """Gradient steps by which every image's content is improved, through the decoder, before it is written; of signs,
    so many are turned over, where that helps. None are taken in training, so that a trained run can be scored with any
    number of them."""
    content_step_size: float = 0.03
    """Length of such a step, relative to the root mean square of the contents."""
    memory_rows: int = 32
    """N, rows of a matrix memory."""
    key_size: int = 32
    """S, numbers of a key of --model kanerva_machine, which a learned projection turns into weights of the rows."""
    write_passes: int = 1
    """Times that --model dynamic_kanerva_machine goes through an episode to write it."""
    pseudo_inverse_steps: int = PSEUDO_INVERSE_STEPS
    """Steps of the iteration by which --model pseudo_inverse_memory inverts; that model's default is 24. More are more
    exact, but training diverges where contents that are still alike are told apart exactly."""


@dataclass(frozen=True)
class MemoryConfig:
    """The block memory of Kanerva++ and how it is written."""

    write: WriteName = "allocate"
    """allocate gives every image a block of its own, in order; allocate_by_content chooses blocks by what the images
    are, so that similar images share; feed_forward is the paper's learned map onto the memory, with normal keys, by
    which images claim blocks."""
    memory_channels: int = 4
    """C_m; the memory has C_m x H_m x W_m scalars."""
    memory_height: int = 20
    """H_m."""
    memory_width: int = 40
    """W_m."""
    block_height: int = 5
    """h, height of the block that a key reads."""
    block_width: int = 5
    """w, width of the block that a key reads."""
    reads: int = 1
    """R, blocks read per image, each through a key of its own."""
    signs_per_scalar: int | None = None
    """Latents are signs, +1 or -1, and so many (1 to 16) are packed into every scalar of a block; numbers, one to a
    scalar, if None. For memories of few scalars: a decoder tells signs apart where it cannot tell levels. Makes
    mean_field the default of --objective, since single draws of the latent's KL say nothing of signs."""
    semantic_reads: float = 0.0
    """Prior probability of a key whose scale says that its block is read for what it tells of images that were not
    written; train with --left-out then. For --write allocate and allocate_by_content, with one read."""
    latent_size: int | None = None
    """D, size of an image's latent: as many scalars (or signs) as are read if None (always with kanerva_plus_plus), 100
    with other models. With --semantic-reads, of one of its two halves."""
    smallest_scale: float = 0.05
    """Lower bound of the learned scales of latents, keys and random memories, so that none becomes a point; keys of
    --write feed_forward have bounds of their own, relative to a block."""


@dataclass(frozen=True)
class NetworkConfig:
    """Encoder and decoder."""

    networks: NetworkFamily = "mlp"
    """mlp (LayerNorm; much the cheaper on a CPU) or conv (GroupNorm; image sides multiples of 4, 16 to 64)."""
    preset: Preset = "tiny"
    """Sets --width and --depth where they are not given."""
    width: int = 0
    """Units of an MLP, or channels at half resolution."""
    depth: int = 0
    """Residual blocks (at each resolution), and layers of attention where there is any."""
    episode_encoder: EpisodeEncoderName = "temporal_shift"
    """What an encoding knows of the other images: nothing (independent), its neighbours' channels (temporal_shift, the
    paper's), or all of them in no order (attention)."""
    temporal_shift: float = 0.0
    """Share of an encoder's channels taken from the previous and as much from the next image."""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation."""

    steps: int = 2000
    """Optimiser steps in all; the learning rate falls to zero over them."""
    episodes_per_step: int = 8
    """B, episodes per step; processes that train together share them out."""
    left_out: int = 0
    """Images of every training episode, beside its T, that are not written and are read from its memory nevertheless,
    by --semantic-reads."""
    objective: ObjectiveName = "trace"
    """trace (Trace_ELBO), mean_field (TraceMeanField_ELBO: analytic KLs), or of --particles draws for each image: iwae,
    dreg (iwae with doubly-reparametrised gradients), renyi (variational Renyi bound)."""
    particles: int = 1
    """K, draws per image and step, of iwae, dreg and renyi."""
    renyi_alpha: float = 0.5
    """Order of --objective renyi: 0 is iwae, towards 1 the ELBO."""
    capture: Literal["auto", "on", "off"] = "auto"
    """Capture a whole step as a CUDA graph and replay it: on one GPU, with --objective trace. auto does so where it can
    be done."""
    learning_rate: float = 2e-3
    """Adam's, after warm-up and before the cosine."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    gradient_norm: float = 10.0
    """Gradients are clipped to this global norm."""
    kl_key_start: float = 1.0
    """Weight of the key's KL until --kl-key-begin-step; a memory is ignored if its keys cost too much too early."""
    kl_key_begin_step: int = 0
    """Step at which the weight begins to grow."""
    kl_key_ramp_steps: int = 0
    """Steps in which it grows to 1."""
    kl_latent_start: float = 0.1
    """Weight of the latent's KL until --kl-latent-begin-step."""
    kl_latent_begin_step: int = 0
    """Step at which the weight begins to grow."""
    kl_latent_ramp_steps: int = 500
    """Steps in which it grows to 1."""
    kl_memory_weight: float = 1.0
    """Weight of a random memory's own KL in training: with 0 the objective is conditional on the memory that was
    written, with 1 it is the complete ELBO. Scores say both."""
    evaluate_every: int = 500
    """Steps between evaluations on the validation set, each with a checkpoint and figures."""


@dataclass(frozen=True)
class Config:
    """Train a memory model on episodes of images, by SVI in Pyro."""

    data: DataConfig = field(default_factory=DataConfig)
    program: ProgramConfig = field(default_factory=ProgramConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    """Seed of parameters, episodes and noise."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the networks; everything else is float32. auto takes bfloat16 where the machine is fast at it."""


# What a data set, a model, a write, ... set, unless the command line says otherwise.
_BY_DATASET: dict[str, dict[str, Any]] = {
    "digits": {"preset": "tiny", "steps": 2500, "evaluate_every": 250},
    "mnist": {"preset": "small", "steps": 17000, "evaluate_every": 1000},
    "fashion_mnist": {"preset": "small", "steps": 17000, "evaluate_every": 1000},
    "omniglot": {
        "preset": "medium",
        "steps": 13500,
        "evaluate_every": 500,
        "augment": True,
        "weight_decay": 0.05,
    },
    "folder": {"preset": "small", "steps": 17000, "evaluate_every": 1000},
}
_BY_WRITE: dict[str, dict[str, Any]] = {
    "allocate": {"episode_encoder": "independent"},
    "allocate_by_content": {"episode_encoder": "independent"},
    "feed_forward": {
        "memory_channels": 100,
        "memory_height": 4,
        "memory_width": 8,
        "block_height": 1,
        "block_width": 1,
        "episode_encoder": "temporal_shift",
    },
}
# A deterministic memory's KL is dropped; with these not paid either, all models are trained for the same: ln p(X | M).
# A linear read is far from exact: a latent's posterior that does not look at it, as the Kanerva Machine's does, pays.
_BY_MODEL: dict[str, dict[str, Any]] = {
    name: {"kl_memory_weight": 0.0, "latent_context": "image_and_read"}
    for name in ("kanerva_machine", "dynamic_kanerva_machine", "pseudo_inverse_memory")
}
_BY_MODEL["pseudo_inverse_memory"]["pseudo_inverse_steps"] = 24
_BY_EPISODE_ENCODER: dict[str, dict[str, Any]] = {"temporal_shift": {"temporal_shift": 0.125}}
_BY_OBJECTIVE: dict[str, dict[str, Any]] = {
    "iwae": {"particles": 8},
    "dreg": {"particles": 8},
    "renyi": {"particles": 8},
}
_BY_PRESET: dict[tuple[str, str], dict[str, Any]] = {
    ("mlp", "tiny"): {"width": 256, "depth": 1},
    ("mlp", "small"): {"width": 512, "depth": 1},
    ("mlp", "medium"): {"width": 768, "depth": 1},
    ("mlp", "base"): {"width": 2048, "depth": 4},
    ("conv", "tiny"): {"width": 16, "depth": 1},
    ("conv", "small"): {"width": 32, "depth": 1},
    ("conv", "medium"): {"width": 64, "depth": 2},
    ("conv", "base"): {"width": 128, "depth": 3},
}


# The choices that other defaults depend on: later ones decide over earlier ones.
_CHOICES = ("dataset", "write", "model", "objective", "episode_encoder", "networks", "preset")


def default_config(arguments: Sequence[str] = ()) -> Config:
    """Return the defaults for the data set, the model and its parts that a command line names."""
    named = {name: value for name, value in _named_choices(arguments).items() if value is not None}
    standard = flat(Config())
    dataset, write, model, objective = ({**standard, **named}[name] for name in _CHOICES[:4])
    chosen = _BY_DATASET.get(dataset, {}) | _BY_WRITE.get(write, {})
    if named.get("signs_per_scalar") and "objective" not in named:
        chosen["objective"] = objective = "mean_field"
    chosen = {**standard, **chosen, **_BY_MODEL.get(model, {}), **_BY_OBJECTIVE.get(objective, {}), **named}
    chosen |= _BY_EPISODE_ENCODER.get(chosen["episode_encoder"], {})
    chosen |= _BY_PRESET.get((chosen["networks"], chosen["preset"]), {})
    return replace_flat(Config(), chosen)


def _named_choices(arguments: Sequence[str]) -> dict[str, Any]:
    """Read the choices and numbers that other defaults depend on, leaving everything else to the real parser."""
    hints = {name: hint for part in get_type_hints(Config).values() for name, hint in _hints(part).items()}
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in _CHOICES:
        flags = {f"--{name}", f"--{name.replace('_', '-')}"}
        parser.add_argument(*flags, dest=name, choices=get_args(hints[name]))
    flags = {"--signs_per_scalar", "--signs-per-scalar"}
    parser.add_argument(*flags, type=lambda text: int(text) if text.isdecimal() else None)
    try:
        return vars(parser.parse_known_args(arguments)[0])
    except argparse.ArgumentError:
        return {}  # a wrong choice: the real parser will say so


def _hints(part: Any) -> dict[str, Any]:
    return get_type_hints(part) if dataclasses.is_dataclass(part) else {}


def replace_flat(config: Config, values: dict[str, Any]) -> Config:
    """Replace fields by their names, whichever part of the configuration holds them."""
    parts: dict[str, Any] = {}
    for part in dataclasses.fields(Config):
        current = getattr(config, part.name)
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            inside = {f.name: values[f.name] for f in dataclasses.fields(current) if f.name in values}
            parts[part.name] = dataclasses.replace(current, **inside)
        elif part.name in values:
            parts[part.name] = values[part.name]
    return dataclasses.replace(config, **parts)


def flat(config: Config) -> dict[str, Any]:
    """Every field of a configuration by its name, whichever part holds it."""
    fields: dict[str, Any] = {}
    for name in (part.name for part in dataclasses.fields(Config)):
        value = getattr(config, name)
        fields |= vars(value) if dataclasses.is_dataclass(value) else {name: value}
    return fields


def config_from_json(content: dict[str, Any], source: Path) -> Config:
    """Build a configuration from what `dataclasses.asdict` wrote.

    Keys that an earlier version did not write take their defaults, which are what it did.

    Raises:
        InputError: a key that is not of this version, or no data set, memory or training.
    """
    parts: dict[str, Any] = {}
    for part in dataclasses.fields(Config):
        if part.name not in content:
            if part.name == "program":
                continue
            raise InputError(f"{source}: expected the key {part.name!r}, found {', '.join(content)}")
        value = content[part.name]
        kind = get_type_hints(Config)[part.name]
        parts[part.name] = _part_from_json(kind, value, source) if dataclasses.is_dataclass(kind) else value
        _require_kind(part.name, parts[part.name], kind, source)
    return Config(**parts)


def _part_from_json(kind: Any, content: dict[str, Any], source: Path) -> Any:
    expected = {f.name for f in dataclasses.fields(kind)}
    if not isinstance(content, dict):
        raise InputError(f"{source}: expected the keys of {kind.__name__}, found {content!r}")
    if kind is ProgramConfig and content.get("content_bits", 0) is None:
        content = {name: value for name, value in content.items() if name != "content_bits"}  # of an earlier version
    if not set(content) <= expected:
        odd = ", ".join(sorted(set(content) - expected))
        raise InputError(f"{source}: expected the keys of {kind.__name__} of this version, found {odd} too")
    values = {name: Path(str(value)) if name == "data_dir" else value for name, value in content.items()}
    for name, hint in get_type_hints(kind).items():
        if name in values:
            _require_kind(name, values[name], hint, source)
    return kind(**values)


def _require_kind(name: str, value: Any, hint: Any, source: Path) -> None:
    """Raise InputError unless a value is what a field of this type may hold."""
    if get_origin(hint) is Literal:
        fits, expected = value in get_args(hint), "one of " + ", ".join(map(str, get_args(hint)))
    else:
        kinds = get_args(hint) or ((int, float) if hint is float else (hint,))
        fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        expected = " or ".join(kind.__name__ for kind in kinds)
    if not fits:
        raise InputError(f"{source}: expected {name} to be {expected}, found {value!r}")
