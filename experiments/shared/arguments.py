"""Arguments of the scripts that read a run, and the settings that their reports state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments.shared.command_line import Plugins
from inference.processes import SINGLE_PROCESS, Processes
from inference.ranges import Seed
from kpp_pyro.errors import InputError

if TYPE_CHECKING:
    from inference.runs.load import Run
    from kpp_pyro.data import EpisodeSet


@dataclass(frozen=True)
class RunArguments:
    """A trained run, the device, and the folder of its data set."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """Run folder; needed unless --pretrained is given."""
    pretrained: str | None = None
    """Use a pretrained run of the project instead of RUN, such as mnist. It is unpacked to runs/pretrained/NAME, where
    results are written."""
    device: str = "auto"
    """Device to use: auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    data_dir: Path | None = None
    """Folder of the data sets. None: that of training."""
    plugin: Plugins = ()

    def path(self, processes: Processes = SINGLE_PROCESS) -> Path:
        """The run folder; the first process unpacks a pretrained run, and the others have to wait.

        Raises:
            InputError: neither RUN nor --pretrained is given, or both.
        """
        if (self.run is None) == (self.pretrained is None):
            found = "neither" if self.run is None else "both"
            raise InputError(f"RUN, --pretrained: expected one of the two, found {found}")
        if self.pretrained is None:
            return self.run  # type: ignore[return-value]
        from inference.runs.pretrained import UNPACKED, unpack

        if processes.is_first:
            unpack(self.pretrained)
        return UNPACKED / self.pretrained

    def load(self, processes: Processes = SINGLE_PROCESS, **changes: object) -> Run:
        """Load the run, see `inference.load`, and choose the threads of what will be done with it."""
        from inference.runs.load import load
        from inference.threads import choose_threads

        choose_threads(processes=processes)
        return load(self.path(processes), self.device, self.data_dir, processes, self.plugin, **changes)

    def open_run(self, processes: Processes = SINGLE_PROCESS, **changes: object) -> Run:
        """Load the run, and check that its folder can be written to."""
        run = self.load(processes, **changes)
        run.folder.require_writable()
        return run


@dataclass(frozen=True)
class HeldOutArguments(RunArguments):
    """A trained run, and the held-out images to use."""

    split: Literal["test", "validation"] = "test"
    """Split of the held-out images."""
    seed: Seed = 0
    """Seed of all random draws. On a CPU with as many threads, the same seed gives the same numbers."""

    def episodes(self, run: Run) -> EpisodeSet:
        """The episodes of the split."""
        return run.episodes.of(self.split)

    def settings(self, run: Run) -> dict[str, Any]:
        """The settings that every report on held-out images states."""
        from inference.runs.rules import binarizations

        data, memory = run.config.data, run.config.memory
        return {
            "dataset": data.dataset,
            "split": self.split,
            "episode_length": data.images_per_episode,
            "classes_per_episode": data.classes_per_episode,
            "likelihood": run.config.program.likelihood,
            "binarization": binarizations(run.config)[1],
            "seed": self.seed,
            "checkpoint_step": run.step,
            "precision": run.config.precision,
            "model": run.config.program.model,
            "write": memory.write,
            "reads": memory.reads,
            "signs_per_scalar": memory.signs_per_scalar,
            "signs_per_latent": memory.signs_per_latent,
            "encoder_steps": run.config.program.encoder_steps,
            "content_steps": run.config.program.content_steps,
            **run.pair.sizes(),
        }


def describe_images(settings: Mapping[str, Any]) -> str:
    """`HeldOutArguments.settings` as text, for the heading of a table."""
    classes = settings["classes_per_episode"]
    return (
        f"{settings['split']} images of {settings['dataset']} ({_pixels(settings)}), "
        f"T = {settings['episode_length']}{'' if classes is None else f' of {classes} classes'}, "
        f"memory of {settings['memory_scalars']:,} scalars ({describe_memory(settings)})"
    )


def describe_memory(settings: Mapping[str, Any]) -> str:
    """What kind of memory `HeldOutArguments.settings` state, as text without its size."""
    from models.registry import MODELS

    kind = MODELS.get(settings["model"])  # None: of a plug-in that is not loaded
    has_write = kind is not None and kind.has_blocks
    details = [settings["write" if has_write else "model"]]
    if has_write and settings["reads"] > 1:
        details.append(f"{settings['reads']} blocks per image")
    for name, (what, of) in _COUNTS.items():
        if count := settings.get(name):
            details.append(f"{count} {what}{'' if count == 1 else 's'}{of}")
    if (signs := settings.get("signs_per_latent", 1)) > 1:
        details.append(f"latents of {2**signs} levels")
    return ", ".join(details)


_COUNTS = {
    "signs_per_scalar": ("sign", " to a scalar"),
    "encoder_steps": ("encoder step", ""),
    "content_steps": ("content step", ""),
    "content_bits": ("bit", " a scalar"),
}


def _pixels(settings: Mapping[str, Any]) -> str:
    """The binarization of images, if any, and their likelihood."""
    binarization = settings["binarization"]
    return ", ".join(filter(None, ("" if binarization == "none" else binarization, describe_likelihood(settings))))


def describe_likelihood(settings: Mapping[str, Any]) -> str:
    """The likelihood in `HeldOutArguments.settings` as text; empty for that of independent binary pixels."""
    name: str = settings["likelihood"]
    return "" if name == "bernoulli" else name.replace("_", " ")


def number(value: float | None, digits: int = 2) -> str:
    """A number as text; ? for None, an unknown value."""
    return "?" if value is None else f"{value:.{digits}f}"
