"""Train Kanerva++ by stochastic variational inference.

    python experiments/svi_train.py                                        # handwritten digits, no download
    python experiments/svi_train.py --dataset mnist --data-dir DIR --steps 20000 --out runs/mnist
    python experiments/svi_train.py --dataset folder --data-dir DIR        # your own, in DIR/train and DIR/test
    python experiments/svi_train.py --resume runs/mnist                    # go on after an interruption

Defaults depend on --dataset, --write, --networks and --preset: name them beside --help to see those they set.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.build import read_run, resolve
from experiments.config import Config, default_config, flat, replace_flat
from experiments.run import Run
from experiments.script import Interruption, run_script
from kpp_pyro.errors import InputError
from kpp_pyro.run_folder import RunFolder

_RESUME = "python experiments/svi_train.py --resume"
_RESUMABLE = ("steps", "evaluate_every", "capture", "data_dir", "workers")  # what may change when a run goes on


@dataclass(frozen=True)
class Arguments(Config):
    """Train Kanerva++ on episodes of images, by SVI in Pyro.

    Defaults depend on --dataset, --write, --networks and --preset: name them beside --help to see those they set.
    """

    out: Path | None = None
    """Run folder; runs/DATASET-WRITE-TIME if None."""
    resume: Path | None = None
    """Continue the run in this folder; only --steps, --evaluate-every, --capture, --data-dir and --workers may be given
    anew. The learning rate falls over --steps in all: with more of them it rises again."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parse(argv)
    folder, config = new_run(arguments) if arguments.resume is None else old_run(arguments, _given(argv))
    config = resolve(config)
    if arguments.dry_run:
        print(json.dumps(dataclasses.asdict(config), indent=2, default=str))
        return 0
    run = Run(folder, config, resume=arguments.resume is not None)
    with Interruption() as interruption:
        run.train(interruption)
    if interruption.signal:
        print(f"Interrupted after step {run.trainer.step}; saved. Continue with: {_RESUME} {folder.path}")
        return interruption.exit_status
    try:
        run.finish()
    except KeyboardInterrupt:
        print(f"Interrupted; training is complete, score it with: {_RESUME} {folder.path}")
        return 130
    return 0


def new_run(arguments: Arguments) -> tuple[RunFolder, Config]:
    """Folder, not made yet, and configuration of a new run."""
    config = Config(**{part.name: getattr(arguments, part.name) for part in dataclasses.fields(Config)})
    name = f"{config.data.dataset}-{config.memory.write}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = RunFolder(arguments.out or Path("runs") / name)
    folder.require_new()
    return folder, config


def old_run(arguments: Arguments, given: Sequence[str]) -> tuple[RunFolder, Config]:
    """Folder and configuration of the run to resume, with what may change of it and was given."""
    assert arguments.resume is not None
    odd = [name for name in given if name not in (*_RESUMABLE, "resume", "dry_run")]
    if odd:
        allowed, found = (", ".join(f"--{name}" for name in names).replace("_", "-") for names in (_RESUMABLE, odd))
        raise InputError(f"--resume: expected no other flags beside it but {allowed}, found {found}")
    folder, config = read_run(arguments.resume)
    return folder, replace_flat(config, {name: flat(arguments)[name] for name in given if name in _RESUMABLE})


def parse(argv: Sequence[str]) -> Arguments:
    """Parse the command line; wrong flags end the program with status 2 and the nearest right one."""
    defaults = default_config(argv)
    values: dict[str, Any] = {part.name: getattr(defaults, part.name) for part in dataclasses.fields(Config)}
    return tyro.cli(
        Annotated[Arguments, tyro.conf.OmitArgPrefixes],  # type: ignore[arg-type]
        args=list(argv),
        default=Arguments(**values),
    )


def _given(argv: Sequence[str]) -> list[str]:
    """Names of the fields whose flags a command line gives."""
    flags = (argument.split("=")[0] for argument in argv if argument.startswith("--"))
    return [flag.removeprefix("--").replace("-", "_") for flag in flags]


if __name__ == "__main__":
    sys.exit(run_script(main))
