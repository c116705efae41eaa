"""What the scripts that look at a run have in common: arguments, and what a report on held-out images has to state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from inference.processes import SINGLE_PROCESS, Processes
from inference.runs.load import Run, load
from inference.runs.pretrained import UNPACKED, unpack
from kpp_pyro.data import EpisodeSet
from kpp_pyro.errors import InputError
from models.config import ProgramConfig


@dataclass(frozen=True)
class RunArguments:
    """A run to look at, and where."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """Run folder."""
    pretrained: str | None = None
    """Use weights that come with the project in place of a run: mnist or omniglot. They are unpacked to
    runs/pretrained/NAME, a run folder as any other."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""
    data_dir: Path | None = None
    """Folder of the data sets; the run's own if None."""

    def path(self, processes: Processes = SINGLE_PROCESS) -> Path:
        """The run folder, unpacked if it has to be, by the first process: others have to wait for it.

        Raises:
            InputError: no run and no pretrained weights are named, or both.
        """
        if (self.run is None) == (self.pretrained is None):
            found = "neither" if self.run is None else "both"
            raise InputError(f"RUN, --pretrained: expected one of the two, found {found}")
        if self.pretrained is None:
            return self.run  # type: ignore[return-value]
        if processes.is_first:
            unpack(self.pretrained)
        return UNPACKED / self.pretrained

    def open_run(self, processes: Processes = SINGLE_PROCESS, **changes: object) -> Run:
        """Open it, if what is found out can be written to it; see `inference.load`."""
        run = load(self.path(processes), self.device, self.data_dir, processes, **changes)
        run.folder.require_writable()
        return run


@dataclass(frozen=True)
class HeldOutArguments(RunArguments):
    """A run to look at, on held-out images."""

    split: Literal["test", "validation"] = "test"
    """Which held-out images."""
    seed: int = 0
    """Of all that is drawn: the same seed gives the same numbers, on a CPU with as many threads."""

    def episodes(self, run: Run) -> EpisodeSet:
        """The episodes of the split."""
        return run.episodes.of(self.split)

    def settings(self, run: Run) -> dict[str, Any]:
        """What any table of results on them has to state."""
        data, memory = run.config.data, run.config.memory
        return {
            "dataset": data.dataset,
            "split": self.split,
            "episode_length": data.episode_length,
            "classes_per_episode": data.classes_per_episode,
            "binarization": data.test_binarize,
            "seed": self.seed,
            "checkpoint_step": run.step,
            "precision": run.config.precision,
            "model": run.config.program.model,
            "write": memory.write,
            "reads": memory.reads,
            "signs_per_scalar": memory.signs_per_scalar,
            "content_steps": run.config.program.content_steps,
            **run.pair.sizes(),
        }


def require_at_least(arguments: object, least: Mapping[str, int]) -> None:
    """Raise InputError, naming the flag, for a number below the least by the field's name; None is let pass."""
    for name, smallest in least.items():
        value = getattr(arguments, name)
        flag = f"--{name.replace('_', '-')}"
        if value is not None and value < smallest:
            raise InputError(f"{flag}: expected at least {smallest}, found {value}")
        if value is not None and value >= 2**63:
            raise InputError(f"{flag}: expected less than 2^63, found {value}")


def describe_images(settings: Mapping[str, Any]) -> str:
    """Say what `HeldOutArguments.settings` holds, in the heading of a table."""
    classes, own_write = settings["classes_per_episode"], settings["model"] == ProgramConfig().model
    details = [settings["write" if own_write else "model"]]
    if own_write and settings["reads"] > 1:
        details.append(f"{settings['reads']} blocks per image")
    for name, what in {"signs_per_scalar": "signs to a scalar", "content_steps": "content steps"}.items():
        if settings.get(name):
            details.append(f"{settings[name]} {what}")
    return (
        f"{settings['split']} images of {settings['dataset']} ({settings['binarization']}), "
        f"T = {settings['episode_length']}{'' if classes is None else f' of {classes} classes'}, "
        f"memory of {settings['memory_scalars']:,} scalars ({', '.join(details)})"
    )


def number(value: float | None, digits: int = 2) -> str:
    """A number of a report, which may not be known."""
    return "?" if value is None else f"{value:.{digits}f}"
