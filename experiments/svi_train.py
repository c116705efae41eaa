"""Train a memory model by stochastic variational inference: Kanerva++, unless --model names a rival.

python experiments/svi_train.py                                        # handwritten digits, no download
python experiments/svi_train.py --dataset mnist --data-dir DIR --steps 20000 --out runs/mnist
python experiments/svi_train.py --model dynamic_kanerva_machine        # a rival, under the same networks
python experiments/svi_train.py --dataset folder --data-dir DIR        # your own, in DIR/train and DIR/test
python experiments/svi_train.py --config runs/mnist/config.json --seed 1   # as another run, but for what is given
python experiments/svi_train.py --resume runs/mnist                    # go on after an interruption
torchrun --nproc-per-node 8 experiments/svi_train.py ...               # the same, shared by 8 processes
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.shared.script import run_shared_script
from experiments.shared.settings_flags import parse_flags
from inference import Config
from inference.processes import SINGLE_PROCESS, Processes
from inference.runs.interruption import Interruption, exit_status
from inference.runs.load import read_run
from inference.runs.resolve import resolve
from inference.runs.training_run import TrainingRun, default_folder
from kpp_pyro.config_part import flag
from kpp_pyro.errors import InputError
from kpp_pyro.files.run_folder import RunFolder

_RESUME = "python experiments/svi_train.py --resume"
_RESUMABLE = ("steps", "evaluate_every", "capture", "data_dir", "workers")  # what may change when a run goes on
_DESCRIPTION = """Train a memory model on episodes of images, by SVI in Pyro: Kanerva++, unless --model names a rival.

Defaults, then the presets of --dataset, --model, --write and --objective, then what is given. --dry-run says what comes
of it."""
_OWN = {
    "out": Annotated[
        Path,
        tyro.conf.arg(
            help="Run folder.", help_behavior_hint="(default: runs/DATASET-WRITE-TIME, or with the model's name)"
        ),
    ],
    "resume": Annotated[
        Path,
        tyro.conf.arg(
            help="Go on with the run in this folder; only --steps, --evaluate-every, --capture, --data-dir and "
            "--workers may be given anew. The learning rate falls over --steps in all: with more it rises again.",
            help_behavior_hint="(default: a new run)",
        ),
    ],
    "config": Annotated[
        Path,
        tyro.conf.arg(
            help="Begin with this configuration: the config.json of a run, or a YAML file of flags.",
            help_behavior_hint="(default: the presets')",
        ),
    ],
    "dry_run": Annotated[
        bool, tyro.conf.arg(help="Print the configuration and stop.", help_behavior_hint="(default: False)")
    ],
}


def main(argv: Sequence[str] | None = None, processes: Processes = SINGLE_PROCESS) -> int:
    """Run the script, as one of several processes if there are any; returns its exit status."""
    with processes.sync_errors():
        given = parse(argv)
        resume, dry_run = given.pop("resume", None), given.pop("dry_run", False)
        folder, config = old_run(resume, given) if resume else new_run(given, processes)
        config = resolve(config, processes)
    if dry_run:
        print(json.dumps(config.to_json(), indent=2))
        return 0
    folder = RunFolder(processes.from_first(folder.path))  # its name may hold the time
    run = TrainingRun(folder, config, resume is not None, processes)
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


def parse(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """What a command line gives, by name; wrong flags end the program with status 2 and the nearest right one."""
    return parse_flags(_DESCRIPTION, _OWN, argv)


def new_run(given: dict[str, Any], processes: Processes = SINGLE_PROCESS) -> tuple[RunFolder, Config]:
    """Folder, not made yet, and configuration of a new run."""
    fields = {name: value for name, value in given.items() if name not in ("out", "config")}
    file = given.get("config")
    config = Config.preset(**fields) if file is None else Config.read(file, **fields)
    folder = RunFolder(given.get("out") or default_folder(config))
    if processes.is_first:
        folder.require_new()
    return folder, config


def old_run(path: Path, given: dict[str, Any]) -> tuple[RunFolder, Config]:
    """Folder and configuration of the run to resume, with what may change of it and was given."""
    odd = [name for name in given if name not in _RESUMABLE]
    if odd:
        allowed, found = (", ".join(flag(name) for name in names) for names in (_RESUMABLE, odd))
        raise InputError(f"--resume: expected no other flags beside it but {allowed}, found {found}")
    folder, config = read_run(path)
    return folder, config.replace(**given)


if __name__ == "__main__":
    sys.exit(run_shared_script(lambda processes: main(processes=processes)))
