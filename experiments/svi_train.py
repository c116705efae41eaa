"""Train a memory model by stochastic variational inference: Kanerva++, or another --model.

python experiments/svi_train.py                                        # handwritten digits, no download
python experiments/svi_train.py --dataset mnist --data-dir DIR --steps 20000 --out runs/mnist
python experiments/svi_train.py --model dynamic_kanerva_machine        # another model, with the same networks
python experiments/svi_train.py --dataset folder --data-dir DIR        # your own pictures
python experiments/svi_train.py --dataset array --data FILE.npz        # your own NumPy arrays
python experiments/svi_train.py --config runs/mnist/config.json --seed 1   # as another run, with another seed
python experiments/svi_train.py --resume runs/mnist                    # continue after an interruption
torchrun --nproc-per-node 8 experiments/svi_train.py ...               # the same, with 8 processes
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.shared.command_line import Plugins, starting
from experiments.shared.script import run_shared_script
from experiments.shared.settings_flags import parse_flags
from inference.processes import SINGLE_PROCESS, Processes
from inference.runs.config import Config
from inference.runs.interruption import Interruption, exit_status
from inference.runs.loggers import LOGGERS
from inference.runs.resolve import device_of_run, resolve, resolve_device
from kpp_pyro.config_part import flag
from kpp_pyro.errors import InputError
from kpp_pyro.files.run_folder import RunFolder

_DESCRIPTION = """Train a memory model on episodes of images, by SVI in Pyro: Kanerva++, or another --model.

Flags replace presets, and presets replace defaults. --dry-run prints the resulting configuration. At the end,
RUN/figures/memory_at_work.png shows a test episode, its memory, recall and samples, by the best checkpoint of a model
with a memory."""
_SCRIPT_FLAGS = {
    "out": Annotated[
        Path,
        tyro.conf.arg(
            help="Run folder to create.",
            help_behavior_hint="(default: runs/DATASET-WRITE-TIME, or -MODEL- for other models)",
        ),
    ],
    "resume": Annotated[
        Path,
        tyro.conf.arg(
            help="Continue the run in this folder. Of the other flags, only --steps, --evaluate-every, --patience, "
            "--logger, --capture, --data-dir, --workers, --device and --plugin may be given. The learning rate falls "
            "to zero over all --steps: with more, it rises again.",
            help_behavior_hint="(default: a new run)",
        ),
    ],
    "config": Annotated[
        Path,
        tyro.conf.arg(
            help="Take the configuration of a run (its folder or config.json), or the flags in a YAML file. Other "
            "flags change it; a changed choice, such as --write, also changes what its preset sets.",
            help_behavior_hint="(default: none)",
        ),
    ],
    "plugin": Plugins,
    "dry_run": Annotated[
        bool, tyro.conf.arg(help="Print the configuration as JSON, and stop.", help_behavior_hint="(default: False)")
    ],
}


def main(argv: Sequence[str] | None = None, processes: Processes = SINGLE_PROCESS) -> int:
    """Run the script, as one of the processes of torchrun if any; returns its exit status."""
    with processes.sync_errors():
        given = parse(argv)
        resume, out, dry_run = given.pop("resume", None), given.pop("out", None), given.pop("dry_run", False)
        config = resolve(resumed_config(resume, out, given) if resume else new_config(given), processes)
    if dry_run:
        LOGGERS[config.training.logger].require_installed()
        if out is not None:
            RunFolder(out).require_new()
        print(json.dumps(config.to_json(), indent=2))
        return 0
    from inference.runs.training_run import claimed_folder

    with ExitStack() as claim:
        path: Path | None = None
        with processes.sync_errors():
            if processes.is_first:  # before anything is loaded
                path = claim.enter_context(claimed_folder(config, resume or out, resume is not None)).path
        path = processes.from_first(path)
        assert path is not None
        with processes.sync_errors():
            if not path.is_dir():  # at the end, every process loads the best checkpoint
                raise InputError(f"--out {path}: expected a folder that all nodes share, found none on this node")
        return train(RunFolder(path), config, resume is not None, processes)


def train(folder: RunFolder, config: Config, resume: bool, processes: Processes) -> int:
    """Train in a claimed folder; returns the exit status."""
    from inference.runs.training_run import TrainingRun
    from inference.threads import choose_threads

    with processes.sync_errors():
        choose_threads(folder.read_threads() if resume else None, processes)
    with TrainingRun(folder, config, resume, processes) as run:
        with Interruption(processes) as interruption:
            stopped_by = run.train(interruption)
        if stopped_by:
            print(f"Interrupted after step {run.trainer.step}; saved. Continue with: {resuming(folder)}")
            return exit_status(stopped_by)
        try:
            run.finish()
        except KeyboardInterrupt:
            print(f"Interrupted; training is complete, score it with: {resuming(folder)}")
            return exit_status(signal.SIGINT)
    return 0


def parse(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The given flags, by name, without the plug-ins, which are loaded.

    Raises:
        InputError: see `parse_flags`.
    """
    given = parse_flags(_DESCRIPTION, _SCRIPT_FLAGS, argv)
    return {name: value for name, value in given.items() if name != "plugin"}


def new_config(given: dict[str, Any]) -> Config:
    """Configuration of a new run."""
    fields = {name: value for name, value in given.items() if name != "config"}
    file = given.get("config")
    return Config.preset(**fields) if file is None else Config.read(file, **fields)


def resuming(folder: RunFolder) -> str:
    """The command that resumes a run, for a shell."""
    return shlex.join([*starting("svi_train.py"), "--resume", str(folder.path)])


def resumed_config(path: Path, out: Path | None, given: dict[str, Any]) -> Config:
    """Configuration of the run to resume, with the given changes; on a machine without its device, of another device.

    Raises:
        InputError: no run, or a flag that may not change.
    """
    from inference.runs.load import read_run
    from inference.runs.training_run import RESUMABLE

    fixed = [name for name in given if name not in RESUMABLE] + (["out"] if out else [])
    if fixed:
        allowed, found = (", ".join(flag(name) for name in names) for names in ((*RESUMABLE, "plugin"), fixed))
        raise InputError(f"--resume: expected no other flags than {allowed}, found {found}")
    config = read_run(path)[1]
    device = device_of_run(config.device)
    if device != config.device and "device" not in given:
        remark = f"note: this machine has no {config.device}; the run goes on with {resolve_device(device)}"
        print(remark, file=sys.stderr)
    return config.replace(**{"device": device, **given})


command = partial(run_shared_script, lambda processes: main(processes=processes))

if __name__ == "__main__":
    sys.exit(command())
