"""From a configuration to data, model and guide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from inference.objectives import make_objective
from inference.runs.config import Config, TrainingConfig, config_from_json, replace_flat
from inference.runs.processes import ALONE, Processes, processes_here
from inference.runs.rules import require_legal, require_sensible
from inference.runs.training import EpisodeSource, KLSchedule, Trainer, TrainingPlan
from inference.tracing import own_randomness
from inference.trained_memory import GenerativeMemory
from kpp_pyro.data import EpisodeSampler, EpisodeSet, FolderSampler, decode_pictures, find_pictures, load_dataset
from kpp_pyro.errors import InputError
from kpp_pyro.files.checkpoint import fitting, load_checkpoint
from kpp_pyro.files.run_folder import RunFolder
from kpp_pyro.networks.heads import fast_precision
from kpp_pyro.networks.shapes import require_image_shape
from models.pair import Pair
from models.parts import ImageShape, build_networks
from models.registry import MODELS


@dataclass(frozen=True)
class Episodes:
    """Episodes of the three splits, on the device."""

    train: EpisodeSampler | FolderSampler
    validation: EpisodeSet
    test: EpisodeSet

    def of(self, split: str) -> EpisodeSet:
        """Held-out episodes: of "test" or "validation"."""
        return self.test if split == "test" else self.validation


def resolve(config: Config, processes: Processes = ALONE) -> Config:
    """Return a configuration of sensible numbers, with nothing left to be decided by the machine it runs on.

    It is the same in all processes: "cuda" is each one's own.

    Raises:
        InputError: a number that no run can use, parts that do not go together, or a device that is not there.
    """
    require_sensible(config)
    require_legal(config)
    device = resolve_device(config.device)
    if processes.count > 1:
        require_device_each(device)
    resolve_capture(config, device, processes.count)
    decided = {
        "data_dir": config.data.data_dir.expanduser().resolve(),
        "device": str(device),
        "precision": str(resolve_precision(config.precision, device)).removeprefix("torch."),
    }
    return replace_flat(config, decided)


def resolve_device(name: str) -> torch.device:
    """Return the device of a `--device` flag.

    Raises:
        InputError: a device that torch does not know, or that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: expected a device of this machine, found none ({reason})") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected cpu or cuda, found {device.type}")
    return device


def require_device_each(device: torch.device) -> None:
    """Raise InputError unless each process of this machine can have such a device of its own."""
    if device.index is not None:
        raise InputError(f"--device {device}: expected cpu, cuda or auto, as every process takes one, found a number")
    if device.type == "cuda" and processes_here() > torch.cuda.device_count():
        raise InputError(
            f"--device {device}: expected a GPU for each of the {processes_here()} processes on this machine, "
            f"found {torch.cuda.device_count()}"
        )


def resolve_capture(config: Config, device: torch.device, processes: int = 1) -> bool:
    """Return whether to capture the step as a CUDA graph.

    Raises:
        InputError: it is asked for and cannot be done.
    """
    wanted, objective = config.training.capture, config.training.objective
    if device.type != "cuda":
        reason = f"a CUDA device, found {device.type}"
    elif objective != "trace":
        reason = f"--objective trace, found {objective}"
    elif processes > 1:
        reason = f"one process, found {processes}"
    else:
        return wanted != "off"
    if wanted == "on":
        raise InputError(f"--capture on: expected {reason}")
    return False


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a `--precision` flag."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return fast_precision(device) if name == "auto" else named[name]


def build_episodes(config: Config, device: torch.device, rank: int = 0, ranks: int = 1) -> Episodes:
    """Load the data set and put its episodes on the device; pictures to train on stay in their folder.

    Process `rank` of `ranks` gets its share of the training episodes, and all held-out ones.
    """
    data = config.data
    length = data.episode_length + config.training.left_out
    drawn = (length, data.binarize, config.seed, data.classes_per_episode, data.augment, rank, ranks)
    train: EpisodeSampler | FolderSampler
    training_set = _naming_left_out(config)
    if data.dataset == "folder":
        pictures = find_pictures(data.data_dir)
        with training_set:
            train = FolderSampler(pictures.train, data.image_size, data.workers, device, *drawn)
        validation, test = (
            decode_pictures(files, data.image_size, data.workers) for files in (pictures.validation, pictures.test)
        )
    else:
        splits = load_dataset(data.dataset, data.data_dir)
        validation, test = splits.validation, splits.test
        with training_set:
            train = EpisodeSampler(splits.train.to(device), *drawn)
    held_out = (data.episode_length, data.test_binarize, config.seed, data.classes_per_episode)
    return Episodes(train, EpisodeSet(validation.to(device), *held_out), EpisodeSet(test.to(device), *held_out))


@contextmanager
def _naming_left_out(config: Config) -> Iterator[None]:
    """Say where it comes from, if a training episode has more images than were asked for."""
    try:
        yield
    except InputError as error:
        if not config.training.left_out:
            raise
        beside = f"--left-out {config.training.left_out} beside --episode-length {config.data.episode_length}"
        raise InputError(f"{beside}: {error}") from error


def build_program(config: Config, image_shape: ImageShape, device: torch.device) -> Pair:
    """Build the model and the guide, with parameters from the configuration's seed."""
    require_image_shape(image_shape)
    torch.manual_seed(config.seed)
    parts = build_networks(config, image_shape, resolve_precision(config.precision, device))
    program = MODELS[config.program.model](parts)
    return program.to(device)


def kl_schedules(training: TrainingConfig) -> dict[str, KLSchedule]:
    """How the weights of the KLs of keys and latents grow to 1."""
    return {
        "key": KLSchedule(training.kl_key_start, training.kl_key_begin_step, training.kl_key_ramp_steps),
        "latent": KLSchedule(training.kl_latent_start, training.kl_latent_begin_step, training.kl_latent_ramp_steps),
    }


def build_trainer(config: Config, program: Pair, episodes: EpisodeSource, processes: Processes = ALONE) -> Trainer:
    """Build the trainer of a program.

    Raises:
        InputError: a step that cannot be captured, though it is asked for, or that processes cannot share out.
    """
    training = config.training
    schedules = kl_schedules(training)
    if training.kl_memory_weight != 1:
        schedules["memory"] = KLSchedule.constant(training.kl_memory_weight)
    plan = TrainingPlan(
        training.steps,
        training.episodes_per_step,
        training.learning_rate,
        training.warmup_steps,
        training.weight_decay,
        training.gradient_norm,
        schedules,
        training.left_out,
    )
    capture = resolve_capture(config, program.device, processes.count)
    if training.episodes_per_step % processes.count:
        raise InputError(
            f"--episodes-per-step: expected a multiple of the {processes.count} processes that share them, "
            f"found {training.episodes_per_step}"
        )
    alpha = training.renyi_alpha if training.objective == "renyi" else 0.0
    objective = make_objective(training.objective, particles=training.particles, alpha=alpha)
    return Trainer(program, objective, episodes, plan, capture, processes)


def read_run(path: Path | str) -> tuple[RunFolder, Config]:
    """Open a run folder and its configuration."""
    run = RunFolder.open(path)
    return run, config_from_json(run.read_config(), run.config)


def load_program(program: Pair, checkpoint: Path) -> int:
    """Load parameters from a checkpoint, to be looked at; returns the step it was saved at.

    Raises:
        InputError: the file is missing, damaged, or of a model of another shape.
    """
    state = load_checkpoint(checkpoint)
    with fitting(checkpoint):
        program.load_state_dict(state["pair"])
        program.eval()
        return int(state["step"])


@dataclass(frozen=True)
class OpenedRun:
    """A run folder with its program, of the best checkpoint, the step of that, and its episodes."""

    folder: RunFolder
    config: Config
    program: Pair
    step: int
    episodes: Episodes

    @cached_property
    def memories(self) -> GenerativeMemory:
        """The program as a memory to use."""
        return GenerativeMemory(self.program.model, self.program.guide)


def open_memory(path: Path | str, device: str = "auto") -> GenerativeMemory:
    """Open a run as a memory to write to and read from; its data set is not needed.

    Raises:
        InputError: no run, no such device, or a checkpoint that does not fit.
    """
    folder, config = read_run(path)
    config = resolve(replace_flat(config, {"device": device}))
    device_of_run = torch.device(config.device)
    with own_randomness(config.seed, device_of_run):  # parameters are drawn before they are loaded
        program = build_program(config, folder.read_image_shape(), device_of_run)
    load_program(program, folder.best)
    return GenerativeMemory(program.model, program.guide)


def open_run(
    path: Path | str,
    device: str = "auto",
    data_dir: Path | None = None,
    processes: Processes = ALONE,
    **changes: object,
) -> OpenedRun:
    """Open a run to look at it, on any device, with its data wherever they are now.

    Args:
        path: run folder.
        device: auto, cpu, cuda, ...
        data_dir: folder of the data sets; the run's own if None.
        processes: those that look at it together.
        changes: fields of the configuration to change by name, such as `precision` or `classes_per_episode`.

    Raises:
        InputError: no run, no such device, no such data, or a checkpoint that does not fit.
    """
    folder, config = read_run(path)
    changes = {"device": device, "data_dir": data_dir or config.data.data_dir, **changes}
    config = resolve(replace_flat(config, changes), processes)
    episodes = build_episodes(config, torch.device(config.device))
    program = build_program(config, episodes.train.image_shape, torch.device(config.device))
    step = load_program(program, folder.best)
    return OpenedRun(folder, config, program, step, episodes)
