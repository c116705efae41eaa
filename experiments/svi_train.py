"""Train a memory model by stochastic variational inference: Kanerva++, unless --model names a rival.

    python experiments/svi_train.py                                        # handwritten digits, no download
    python experiments/svi_train.py --dataset mnist --data-dir DIR --steps 20000 --out runs/mnist
    python experiments/svi_train.py --model dynamic_kanerva_machine        # a rival, under the same networks
    python experiments/svi_train.py --dataset folder --data-dir DIR        # your own, in DIR/train and DIR/test
    python experiments/svi_train.py --resume runs/mnist                    # go on after an interruption
    torchrun --nproc-per-node 8 experiments/svi_train.py ...               # the same, shared by 8 processes

Defaults depend on --dataset, --model, --write, --objective, --episode-encoder, --networks and --preset: name them
beside --help to see those they set.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.shared.script import run_shared_script
from inference.runs.config import Config, ProgramConfig, default_config, flat, replace_flat
from inference.runs.interruption import Interruption, exit_status
from inference.runs.opening import read_run
from inference.runs.processes import ALONE, Processes
from inference.runs.resolving import resolve
from inference.runs.run import Run
from kpp_pyro.errors import InputError
from kpp_pyro.files.run_folder import RunFolder

_RESUME = "python experiments/svi_train.py --resume"
_RESUMABLE = ("steps", "evaluate_every", "capture", "data_dir", "workers")  # what may change when a run goes on


@dataclass(frozen=True)
class Arguments(Config):
    """Train a memory model on episodes of images, by SVI in Pyro: Kanerva++, unless --model names a rival.

    Defaults depend on --dataset, --model, --write, --objective, --episode-encoder, --networks and --preset: name them
    beside --help to see those they set.
    """

    out: Path | None = None
    """Run folder; runs/DATASET-WRITE-TIME if None, or with the model's name in place of the write's."""
    resume: Path | None = None
    """Continue the run in this folder; only --steps, --evaluate-every, --capture, --data-dir and --workers may be given
    anew. The learning rate falls over --steps in all: with more of them it rises again."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: Sequence[str] | None = None, processes: Processes = ALONE) -> int:
    """Run the script, as one of several processes if there are any; returns its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    with processes.together():
        arguments = parse(argv)
        resuming = arguments.resume is not None
        folder, config = old_run(arguments, _given(argv)) if resuming else new_run(arguments, processes)
        config = resolve(config, processes)
    if arguments.dry_run:
        print(json.dumps(dataclasses.asdict(config), indent=2, default=str))
        return 0
    folder = RunFolder(processes.of_first(folder.path))  # its name may hold the time
    run = Run(folder, config, resuming, processes)
    with Interruption(processes) as interruption:
        stopped_by = run.train(interruption)
    if stopped_by:
        print(f"Interrupted after step {run.trainer.step}; saved. Continue with: {_RESUME} {folder.path}")
        return exit_status(stopped_by)
    try:
        run.finish()
    except KeyboardInterrupt:
        print(f"Interrupted; training is complete, score it with: {_RESUME} {folder.path}")
        return exit_status(signal.SIGINT)
    return 0


def new_run(arguments: Arguments, processes: Processes = ALONE) -> tuple[RunFolder, Config]:
    """Folder, not made yet, and configuration of a new run."""
    config = Config(**{part.name: getattr(arguments, part.name) for part in dataclasses.fields(Config)})
    own = config.memory.write if config.program.model == ProgramConfig.model else config.program.model
    name = f"{config.data.dataset}-{own}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = RunFolder(arguments.out or Path("runs") / name)
    if processes.is_first:
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
    sys.exit(run_shared_script(lambda processes: main(processes=processes)))
