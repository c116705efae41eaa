"""A training run: steps, evaluations, and everything they leave in the run folder."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pyro
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experiments.build import Program, build_episodes, build_program, build_trainer, load_program
from experiments.config import Config
from experiments.pictures import draw_figures
from experiments.script import Interruption
from inference.errors import DivergenceError
from inference.evaluation import describe, evaluate
from inference.randomness import own_randomness
from kpp_pyro.checkpoint import fitting, load_checkpoint, save_checkpoint
from kpp_pyro.data import EpisodeSet
from kpp_pyro.errors import InputError
from kpp_pyro.run_folder import RunFolder

_LOG_EVERY = 50  # steps
_EVALUATION_EPISODES = 32  # episodes in memory at a time
_EVALUATION_SEED = 0  # of the noise of every evaluation, so that two checkpoints meet the same draws
_KEPT = ("best_elbo_nats_per_image", "training_seconds")  # in a checkpoint, beside the trainer's state


class Run:
    """A program in training, and its folder."""

    def __init__(self, folder: RunFolder, config: Config, resume: bool = False) -> None:
        """Prepare a run; its folder is touched when everything that can be refused has been."""
        self.folder, self.config = folder, config
        device = torch.device(config.device)
        self.episodes = build_episodes(config, device)
        self.program = build_program(config, self.episodes.train.image_shape, device)
        self.trainer = build_trainer(config, self.program, self.episodes.train)
        self.best_elbo_nats_per_image = float("-inf")
        self.training_seconds = 0.0  # of steps alone, over all sessions of the run
        if resume:
            self._load()
        else:
            folder.create()
        folder.write_config(dataclasses.asdict(config), self.program.sizes())

    def train(self, interruption: Interruption) -> None:
        """Step to the end of the plan, or to an interruption; either leaves a checkpoint."""
        trainer, steps = self.trainer, self.config.training.steps
        if trainer.step == 0:
            self.save()
        with (
            SummaryWriter(str(self.folder.tensorboard), purge_step=trainer.step + 1) as board,
            tqdm(total=steps, initial=trainer.step, unit="step", desc="training", dynamic_ncols=True) as bar,
        ):
            while trainer.step < steps and not interruption.signal:
                began = time.perf_counter()
                result = trainer.train_step()
                self.training_seconds += time.perf_counter() - began
                bar.update()
                if trainer.step % _LOG_EVERY == 0 or trainer.step == steps:
                    quantities = trainer.quantities(result)
                    self._log("train", quantities, board)
                    elbo = quantities["annealed_elbo_nats_per_image"]
                    bar.set_postfix_str(f"annealed ELBO {elbo:.1f} nats per image")
                if trainer.step % self.config.training.evaluate_every == 0 or trainer.step == steps:
                    self._evaluate(board, bar)
            if interruption.signal:
                self.save()

    def _evaluate(self, board: SummaryWriter, bar: Any) -> None:
        """Look at the validation set, keep the best checkpoint beside the last, and draw."""
        try:
            results = score(self.program, self.episodes.validation)
        except DivergenceError as error:
            raise DivergenceError(f"step {self.trainer.step}, validation: {error}") from error
        self._log("validation", {**results, "training_seconds": round(self.training_seconds, 1)}, board)
        bar.write(f"step {self.trainer.step:>6}  validation: {describe(results)}")
        if results["elbo_nats_per_image"] > self.best_elbo_nats_per_image:
            self.best_elbo_nats_per_image = results["elbo_nats_per_image"]
            # Before the other: a run that is killed between the two repeats the steps, and finds it again.
            save_checkpoint(self.folder.best, {"step": self.trainer.step, **self.program.state_dicts()})
        self.save()
        for name, figure in draw_figures(self.folder, self.program, self.episodes.validation).items():
            board.add_figure(name, figure, self.trainer.step)

    def _log(self, split: str, quantities: dict[str, float], board: SummaryWriter) -> None:
        self.folder.log(self.trainer.step, split, quantities)
        for name, value in quantities.items():
            board.add_scalar(f"{split}/{name}", value, self.trainer.step)

    def save(self) -> None:
        """Save everything that the next step depends on."""
        kept = {name: getattr(self, name) for name in _KEPT}
        save_checkpoint(self.folder.checkpoint, {**self.trainer.state_dict(), **kept})

    def _load(self) -> None:
        """Continue from the last checkpoint.

        Raises:
            InputError: the file is missing, damaged, of a run of another shape, or beyond the steps asked for.
        """
        state = load_checkpoint(self.folder.checkpoint)
        with fitting(self.folder.checkpoint):
            self.trainer.load_state_dict(state)
            for name in _KEPT:
                setattr(self, name, state[name])
        if self.config.training.steps < self.trainer.step:
            raise InputError(
                f"--steps: expected at least the {self.trainer.step} that {self.folder.path} has taken, "
                f"found {self.config.training.steps}"
            )
        self.folder.forget_after(self.trainer.step)

    def finish(self) -> None:
        """Score the test set once, with the best checkpoint; draw with it, and say where everything is."""
        step = load_program(self.program, self.folder.best)
        results = score(self.program, self.episodes.test, progress=True)
        self.folder.log(step, "test", results)
        draw_figures(self.folder, self.program, self.episodes.validation)
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
    with own_randomness(_EVALUATION_SEED, program.device), pyro.validation_enabled(False):
        return evaluate(program.model, program.guide, tqdm(batches, "test", total, disable=not progress, leave=False))
