"""Load a trained run: its folder, configuration, pair, memory and episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from inference.processes import SINGLE_PROCESS, Processes
from inference.runs.capacity import require_parameter_capacity
from inference.runs.config import Config, naming
from inference.runs.data import Episodes, build_episodes
from inference.runs.plugins import load_plugins
from inference.runs.resolve import resolve
from inference.trained_memory import TrainedMemory
from kpp_pyro.arguments import checked
from kpp_pyro.errors import InputError
from kpp_pyro.files.checkpoint import fitting, read_checkpoint, require_like
from kpp_pyro.files.run_folder import RunFolder
from kpp_pyro.files.run_schemas import BestCheckpoint
from models.build import build
from models.pair import Pair
from models.registry import MODELS


@dataclass(frozen=True)
class Run:
    """A trained run, with the pair of its best checkpoint.

    Attributes:
        folder: the run folder.
        config: its configuration, resolved for this machine.
        pair: its model and guide, in evaluation mode.
        step: optimiser step of the checkpoint.
    """

    folder: RunFolder
    config: Config
    pair: Pair
    step: int

    def __repr__(self) -> str:
        """Folder, data set, model and step."""
        return f"Run({str(self.folder.path)!r}, {self.config.data.dataset}, {self.config.name}, step {self.step})"

    @cached_property
    def memory(self) -> TrainedMemory:
        """The pair as a memory to write to and read from; needs no data set.

        Raises:
            InputError: a model without a memory.
        """
        model = self.config.program.model
        if not MODELS[model].has_memory:
            raise InputError(f"{self.folder.path}: expected a run of a model with a memory, found --model {model}")
        return TrainedMemory(self.pair.model, self.pair.guide)

    @cached_property
    def episodes(self) -> Episodes:
        """The episodes of the run's data set, loaded at first use.

        Raises:
            InputError: a data set that cannot be loaded, or images of another shape.
        """
        found = build_episodes(self.config, self.pair.device)
        shape, expected = found.train.image_shape, self.pair.model.image_shape
        if shape != expected:
            where = f"--data-dir {self.config.data.data_dir}"
            raise InputError(f"{where}: expected images of the run's shape {expected}, found {shape}")
        return found


@checked
def load(
    path: Path | str,
    device: str | torch.device = "auto",
    data_dir: Path | str | None = None,
    processes: Processes = SINGLE_PROCESS,
    plugins: Path | str | Sequence[Path | str] = (),
    **changes: object,
) -> Run:
    """Load a trained run from its folder, on any device.

    Args:
        path: the run folder; see `load_pretrained` for the runs that come with the project.
        device: auto, cpu, cuda, ...
        data_dir: folder of the data sets; None: that of training.
        processes: those that load it together.
        plugins: Python file or module that registers parts, or several, see `load_plugins`. Needed for those of the
            run that you have not given before, and for those that have moved or changed.
        changes: fields of the configuration to change, by name, such as `precision` or `classes_per_episode`.

    Raises:
        InputError: no run, no such device, a checkpoint that does not fit the configuration, or a plug-in that cannot
            be loaded.
    """
    load_plugins(*([plugins] if isinstance(plugins, Path | str) else plugins))
    folder, config = read_run(path)
    moved = {} if data_dir is None else {"data_dir": data_dir}
    config = resolve(config.replace(**{"device": str(device), **moved, **changes}), processes)
    with naming(folder.config):
        require_parameter_capacity(config, torch.device(config.device))
    pair = build(config, folder.read_image_shape(), torch.device(config.device))
    return Run(folder, config, pair, load_pair(pair, folder.best))


def start_from(pair: Pair, path: Path) -> list[str]:
    """Copy a run's best parameters to those of a pair that have their names and shapes; returns the names of the rest.

    Raises:
        InputError: no run, a damaged file, or no parameter in common. The message begins with the flag.
    """
    with naming("--start-from"):
        best = RunFolder.open(path).best
        state = read_checkpoint(best, BestCheckpoint)
        own = pair.state_dict()
        common = {name: value for name, value in state.pair.items() if name in own and value.shape == own[name].shape}
        if not common:
            raise InputError(f"{path}: expected a run with parameters of this model, found none in common")
        with fitting(best):
            require_like(common, {name: own[name] for name in common}, "parameters")
            pair.load_state_dict(common, strict=False)
    return [name for name in own if name not in common]


def read_run(path: Path | str) -> tuple[RunFolder, Config]:
    """A run folder and its configuration.

    Raises:
        InputError: no run folder, a configuration that is not of this version, or a plug-in that cannot be loaded.
    """
    folder = RunFolder.open(path)
    config = Config.of_run(folder.config)
    if config.data.episode_length is None:  # open only until the data is loaded
        raise InputError(f"{folder.config}: expected a whole number for episode_length, found null")
    return folder, config


def load_pair(pair: Pair, checkpoint: Path) -> int:
    """Load a pair's parameters from a checkpoint, and set evaluation mode; returns the checkpoint's step.

    Raises:
        InputError: a missing or damaged file, parameters of other shapes, or some that are not finite.
    """
    state = read_checkpoint(checkpoint, BestCheckpoint)
    with fitting(checkpoint):
        require_like(state.pair, pair.state_dict(), "parameters")
        pair.load_state_dict(state.pair)
    pair.eval()
    return state.step
