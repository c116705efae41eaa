"""Train Kanerva++ by stochastic variational inference.

    python experiments/svi_train.py                                        # handwritten digits, no download
    python experiments/svi_train.py --dataset mnist --data-dir DIR --steps 9000 --out runs/mnist
    python experiments/svi_train.py --resume runs/mnist                    # go on after an interruption

Defaults depend on --dataset, --write, --networks and --preset: name them beside --help to see those they set.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pyro
import torch
import tyro
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experiments.build import (
    Episodes,
    Program,
    build_episodes,
    build_program,
    build_trainer,
    load_program,
    read_run,
    resolve_device,
    resolve_precision,
)
from experiments.config import Config, default_config, flat, replace_flat, require_sensible
from experiments.pictures import draw_figures
from experiments.script import Interruption, run_script
from inference.errors import DivergenceError
from inference.evaluation import describe, evaluate
from kpp_pyro.checkpoint import MISMATCH, load_checkpoint, mismatch, save_checkpoint
from kpp_pyro.data import EpisodeSet
from kpp_pyro.errors import InputError
from kpp_pyro.run_folder import RunFolder

_LOG_EVERY = 50  # steps
_EVALUATION_EPISODES = 32  # episodes in memory at a time
_RESUMABLE = ("steps", "evaluate-every", "data-dir", "device")  # what may change when a run goes on
_KEPT = ("best_elbo", "training_seconds")  # what a run keeps in a checkpoint beside the trainer's state
_EVALUATION_SEED = 0  # of the noise of every evaluation, so that two checkpoints meet the same draws


@dataclass(frozen=True)
class Arguments(Config):
    """Train Kanerva++ on episodes of images, by SVI in Pyro.

    Defaults depend on --dataset, --write, --networks and --preset: name them beside --help to see those they set.
    """

    out: Path | None = None
    """Run folder; runs/DATASET-WRITE-TIME if None."""
    resume: Path | None = None
    """Continue the run in this folder; only --steps, --evaluate-every, --data-dir and --device may be given anew."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


class Run:
    """One training run: steps, evaluations, and everything they leave in the run folder."""

    def __init__(self, folder: RunFolder, config: Config, program: Program, episodes: Episodes) -> None:
        self.folder, self.config, self.program, self.episodes = folder, config, program, episodes
        self.trainer = build_trainer(config, program, episodes.train)
        self.best_elbo = float("-inf")
        self.training_seconds = 0.0  # of steps alone, over all sessions of the run

    def train(self, interruption: Interruption) -> None:
        """Step to the end of the plan, or to an interruption; either leaves a checkpoint."""
        trainer, steps = self.trainer, self.config.training.steps
        with (
            SummaryWriter(str(self.folder.tensorboard), purge_step=trainer.step + 1) as board,
            tqdm(total=steps, initial=trainer.step, unit="step", desc="training", dynamic_ncols=True) as bar,
        ):
            while trainer.step < steps and not interruption.signal:
                began = time.perf_counter()
                quantities = trainer.train_step()
                self.training_seconds += time.perf_counter() - began
                bar.update()
                if trainer.step % _LOG_EVERY == 0 or trainer.step == steps:
                    self._log("train", quantities, board)
                    bar.set_postfix_str(f"ELBO {quantities['annealed_elbo_nats_per_image']:.1f} nats per image")
                if trainer.step % self.config.training.evaluate_every == 0 or trainer.step == steps:
                    self._evaluate(board, bar)
            self.save(self.folder.checkpoint)

    def _evaluate(self, board: SummaryWriter, bar: Any) -> None:
        """Look at the validation set, keep the best checkpoint beside the last, and draw."""
        try:
            results = score(self.program, self.episodes.validation)
        except DivergenceError as error:
            raise DivergenceError(f"step {self.trainer.step}, validation: {error}") from error
        self._log("validation", {**results, "training_seconds": round(self.training_seconds, 1)}, board)
        bar.write(f"step {self.trainer.step:>6}  validation: {describe(results)}")
        if results["elbo_nats_per_image"] > self.best_elbo:
            self.best_elbo = results["elbo_nats_per_image"]
            self.save(self.folder.best)
        self.save(self.folder.checkpoint)
        for name, figure in draw_figures(self.folder, self.program, self.episodes.validation).items():
            board.add_figure(name, figure, self.trainer.step)

    def _log(self, split: str, quantities: dict[str, float], board: SummaryWriter) -> None:
        self.folder.log(self.trainer.step, split, quantities)
        for name, value in quantities.items():
            board.add_scalar(f"{split}/{name}", value, self.trainer.step)

    def save(self, path: Path) -> None:
        """Save everything that the next step depends on."""
        save_checkpoint(path, {**self.trainer.state_dict(), **{name: getattr(self, name) for name in _KEPT}})

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            InputError: the file is damaged, or of a run of another shape.
        """
        state = load_checkpoint(path)
        try:
            self.trainer.load_state_dict(state)
            for name in _KEPT:
                setattr(self, name, state[name])
        except MISMATCH as error:
            raise mismatch(path, error) from error

    def finish(self) -> None:
        """Score the test set once, with the best checkpoint, and say where everything is."""
        step = load_program(self.program, self.folder.best)
        results = score(self.program, self.episodes.test, progress=True)
        self.folder.log(step, "test", results)
        print(f"test: {describe(results)} (checkpoint of step {step}, the best on the validation set)")
        gain = results.get("memory_gain_nats_per_image")
        print(
            f"Test ELBO {results['elbo_nats_per_image']:.2f} nats per image, "
            f"memory gain {'not measured (one episode)' if gain is None else f'{gain:.2f} nats per image'}, "
            f"run folder {self.folder.path}"
        )


def score(program: Program, episodes: EpisodeSet, progress: bool = False) -> dict[str, float]:
    """Evaluate a program on all episodes, leaving the random state of training untouched."""
    batches = episodes.batches(_EVALUATION_EPISODES)
    total = -(-len(episodes) // _EVALUATION_EPISODES)
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(_EVALUATION_SEED)
        return evaluate(program.model, program.guide, tqdm(batches, "test", total, disable=not progress, leave=False))


def resolve(arguments: Arguments) -> Config:
    """Return the configuration with nothing left to be decided by the machine it runs on."""
    config = Config(**{part.name: getattr(arguments, part.name) for part in dataclasses.fields(Config)})
    device = resolve_device(config.device)
    decided = {
        "data_dir": config.data.data_dir.expanduser().resolve(),
        "device": str(device),
        "precision": str(resolve_precision(config.precision, device)).removeprefix("torch."),
    }
    return replace_flat(config, decided)


def start(arguments: Arguments) -> Run:
    """Make a new run folder, after everything that can be refused has been."""
    config = resolve(arguments)
    name = f"{config.data.dataset}-{config.memory.write}-{datetime.now():%Y%m%d-%H%M%S}"
    run = prepare(config, RunFolder(arguments.out or Path("runs") / name))
    run.folder.create(dataclasses.asdict(config))
    return run


def resume(arguments: Arguments, given: Sequence[str]) -> Run:
    """Continue the run in a folder, with what may change of its configuration and was given."""
    assert arguments.resume is not None
    odd = [flag for flag in given if flag not in (*_RESUMABLE, "resume", "dry-run")]
    if odd:
        allowed = ", ".join(f"--{flag}" for flag in _RESUMABLE)
        raise InputError(f"--resume: expected no other flags beside it but {allowed}, found --{odd[0]}")
    folder, config = read_run(arguments.resume)
    anew = flat(arguments)
    config = replace_flat(config, {name: anew[name] for name in map(_field_name, given) if name in flat(config)})
    run = prepare(config, folder)
    run.load(folder.checkpoint)
    folder.write_config(dataclasses.asdict(config))
    folder.forget_after(run.trainer.step)
    return run


def prepare(config: Config, folder: RunFolder) -> Run:
    """Build everything that a run needs; nothing is written."""
    require_sensible(config)
    device = resolve_device(config.device)
    episodes = build_episodes(config, device)
    return Run(folder, config, build_program(config, episodes.train.image_shape, device), episodes)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parse(argv)
    if arguments.dry_run:
        print(json.dumps(dataclasses.asdict(resolve(arguments)), indent=2, default=str))
        return 0
    run = start(arguments) if arguments.resume is None else resume(arguments, _flags(argv))
    with Interruption() as interruption:
        run.train(interruption)
    if interruption.signal:
        print(
            f"Interrupted after step {run.trainer.step}; saved. "
            f"Continue with: python experiments/svi_train.py --resume {run.folder.path}"
        )
        return interruption.exit_status
    run.finish()
    return 0


def parse(argv: Sequence[str]) -> Arguments:
    """Parse the command line; wrong flags end the program with status 2 and the nearest right one."""
    defaults = default_config(argv)
    values: dict[str, Any] = {part.name: getattr(defaults, part.name) for part in dataclasses.fields(Config)}
    return tyro.cli(
        Annotated[Arguments, tyro.conf.OmitArgPrefixes],  # type: ignore[arg-type]
        args=list(argv),
        default=Arguments(**values),
    )


def _flags(argv: Sequence[str]) -> list[str]:
    """Names of the flags that a command line gives."""
    return [argument.split("=")[0].removeprefix("--") for argument in argv if argument.startswith("--")]


def _field_name(flag: str) -> str:
    return flag.replace("-", "_")


if __name__ == "__main__":
    sys.exit(run_script(main))
