"""Configuration of a training run: one dataclass per concern, defaults by data set and write."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from inference.objectives import ObjectiveName
from inference.processes import processes_here
from kpp_pyro.data import Binarization
from kpp_pyro.errors import InputError
from kpp_pyro.networks.shapes import require_image_shape

DatasetName = Literal["digits", "mnist", "fashion_mnist", "omniglot", "folder"]
WriteName = Literal["allocate", "feed_forward"]
NetworkFamily = Literal["mlp", "conv"]
Preset = Literal["tiny", "small", "medium", "base"]

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
class MemoryConfig:
    """The memory and how it is written."""

    write: WriteName = "allocate"
    """allocate gives every image a block of its own; feed_forward is the paper's learned map onto the whole memory."""
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
    latent_size: int | None = None
    """D, size of an image's latent; allocate always takes the number of scalars that are read."""
    smallest_scale: float = 0.05
    """Lower bound of the scales of latents, and of keys with feed_forward, so that neither becomes a point."""


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
    """Residual blocks (at each resolution)."""
    temporal_shift: float = 0.0
    """Share of an encoder's channels taken from the previous and as much from the next image; 0 is off."""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation."""

    steps: int = 2000
    """Optimiser steps in all; the learning rate falls to zero over them."""
    episodes_per_step: int = 8
    """B, episodes per step; processes that train together share them out."""
    objective: ObjectiveName = "trace"
    """trace (Trace_ELBO) or mean_field (TraceMeanField_ELBO: analytic KLs where there are any)."""
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
    evaluate_every: int = 500
    """Steps between evaluations on the validation set, each with a checkpoint and figures."""


@dataclass(frozen=True)
class Config:
    """Train Kanerva++ on episodes of images, by SVI in Pyro."""

    data: DataConfig = field(default_factory=DataConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    """Seed of parameters, episodes and noise."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the networks; everything else is float32. auto takes bfloat16 where the machine is fast at it."""


# What a data set, a write and a preset set, unless the command line says otherwise.
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
    "allocate": {},
    "feed_forward": {
        "memory_channels": 50,
        "memory_height": 8,
        "memory_width": 8,
        "block_height": 2,
        "block_width": 2,
        "latent_size": 64,
        "temporal_shift": 0.125,
        "kl_key_start": 0.0,
        "kl_key_begin_step": 1500,
        "kl_key_ramp_steps": 2000,
    },
}
# A learned map has to discover what `allocate` is given: it needs several times the steps.
_BY_DATASET_AND_WRITE: dict[tuple[str, str], dict[str, Any]] = {
    ("digits", "feed_forward"): {"steps": 6000, "evaluate_every": 500},
    ("mnist", "feed_forward"): {"preset": "medium", "steps": 24000},
    ("fashion_mnist", "feed_forward"): {"preset": "medium", "steps": 24000},
    ("omniglot", "feed_forward"): {"steps": 24000, "evaluate_every": 1000},
    ("folder", "feed_forward"): {"preset": "medium", "steps": 24000},
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


def default_config(arguments: Sequence[str] = ()) -> Config:
    """Return the defaults for the data set, the write, the networks and the preset that a command line names."""
    named = {name: value for name, value in _named_choices(arguments).items() if value is not None}
    dataset = named.get("dataset", DataConfig.dataset)
    write = named.get("write", MemoryConfig.write)
    chosen = {"dataset": dataset, "write": write, **_BY_DATASET.get(dataset, {}), **_BY_WRITE.get(write, {})}
    chosen |= _BY_DATASET_AND_WRITE.get((dataset, write), {}) | named
    networks, preset = chosen.get("networks", NetworkConfig.networks), chosen.get("preset", NetworkConfig.preset)
    chosen |= _BY_PRESET.get((networks, preset), {})
    return replace_flat(Config(), chosen)


def _named_choices(arguments: Sequence[str]) -> dict[str, str | None]:
    """Read the choices that other defaults depend on, leaving everything else to the real parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, choices in (
        ("dataset", DatasetName),
        ("write", WriteName),
        ("networks", NetworkFamily),
        ("preset", Preset),
    ):
        parser.add_argument(f"--{name}", choices=get_args(choices))
    try:
        return vars(parser.parse_known_args(arguments)[0])
    except argparse.ArgumentError:
        return {}  # a wrong choice: the real parser will say so


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

    Raises:
        InputError: a key that is not of this version, or is missing.
    """
    parts: dict[str, Any] = {}
    for part in dataclasses.fields(Config):
        if part.name not in content:
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
    if set(content) != expected:
        odd = ", ".join(sorted(expected.symmetric_difference(content)))
        raise InputError(f"{source}: expected the keys of {kind.__name__} of this version, found a difference in {odd}")
    values = {name: Path(str(value)) if name == "data_dir" else value for name, value in content.items()}
    for name, hint in get_type_hints(kind).items():
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


def require_sensible(config: Config) -> None:
    """Raise InputError, naming the flag, for a number that no run can use."""
    data, memory, network, training = config.data, config.memory, config.network, config.training
    at_least_one = {
        "episode-length": data.episode_length,
        "workers": data.workers,
        "latent-size": 1 if memory.latent_size is None else memory.latent_size,
        "width": network.width,
        "depth": network.depth,
        "steps": training.steps,
        "episodes-per-step": training.episodes_per_step,
        "evaluate-every": training.evaluate_every,
    }
    for flag, value in at_least_one.items():
        if value < 1:
            raise InputError(f"--{flag}: expected at least 1, found {value}")
    require_image_shape((1, data.image_size, data.image_size), "--image-size")
    for flag, positive in {
        "smallest-scale": memory.smallest_scale,
        "learning-rate": training.learning_rate,
        "gradient-norm": training.gradient_norm,
    }.items():
        if not 0 < positive < float("inf"):
            raise InputError(f"--{flag}: expected a positive, finite number, found {positive}")
    for flag, not_negative in {
        "seed": config.seed,
        "weight-decay": training.weight_decay,
        "warmup-steps": training.warmup_steps,
        "kl-key-start": training.kl_key_start,
        "kl-key-begin-step": training.kl_key_begin_step,
        "kl-key-ramp-steps": training.kl_key_ramp_steps,
        "kl-latent-start": training.kl_latent_start,
        "kl-latent-begin-step": training.kl_latent_begin_step,
        "kl-latent-ramp-steps": training.kl_latent_ramp_steps,
    }.items():
        if not 0 <= not_negative < 2**63:
            raise InputError(f"--{flag}: expected a number from 0 to 2^63 - 1, found {not_negative}")
    if not 0 <= network.temporal_shift <= 0.5:
        raise InputError(f"--temporal-shift: expected a share from 0 to 0.5, found {network.temporal_shift}")
    if network.networks == "conv" and network.width % 16:
        raise InputError(f"--width: expected a multiple of 16 for --networks conv (GroupNorm), found {network.width}")
