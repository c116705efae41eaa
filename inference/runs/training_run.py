"""Training a run: steps, evaluations, and everything they leave in the run folder."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import pyro
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from inference.errors import DivergenceError
from inference.metrics.elbo import describe, mean_elbo
from inference.processes import SINGLE_PROCESS, Processes
from inference.runs.build_trainer import build_trainer
from inference.runs.config import Config
from inference.runs.data import Episodes, build_episodes
from inference.runs.interruption import Interruption
from inference.runs.load import Run, load_pair
from inference.runs.plots import plot_figures
from inference.runs.resolve import resolve
from inference.runs.rules import has_blocks
from inference.tracing import seed_of
from kpp_pyro.data import DATASETS, EpisodeSet
from kpp_pyro.errors import InputError
from kpp_pyro.files.checkpoint import fitting, load_checkpoint, save_checkpoint
from kpp_pyro.files.run_folder import RunFolder
from models.build import build
from models.config import ProgramConfig
from models.pair import Pair

_LOG_EVERY = 50  # steps
_AGREE_EVERY = 10  # steps, on whether to stop
_EVALUATION_EPISODES = 8  # episodes in memory at a time; the batches are what processes share out
_EVALUATION_SEED = 0  # of the noise of every evaluation, so that two checkpoints meet the same draws
_KEPT = ("best_elbo_nats_per_image", "training_seconds")  # in a checkpoint, beside the trainer's state


class TrainingRun:
    """A pair in training, and its folder; of several processes, the first alone writes to it."""

    def __init__(
        self, folder: RunFolder, config: Config, resume: bool = False, processes: Processes = SINGLE_PROCESS
    ) -> None:
        """Prepare a run; its folder is touched when everything that can be refused has been."""
        self.folder, self.config, self.processes = folder, config, processes
        if processes.is_first:
            _note_shared_blocks(config)
        device = torch.device(config.device)
        self.episodes = self._load_episodes(device)
        with processes.sync_errors():
            self.pair = build(config, self.episodes.train.image_shape, device)
        torch.manual_seed(seed_of(config.seed, processes.rank))  # the same parameters in all, other noise in each
        self.best_elbo_nats_per_image = float("-inf")
        self.best_step = 0  # of the best checkpoint, once it is loaded
        self.training_seconds = 0.0  # of steps alone, over all sessions of the run
        with processes.sync_errors():  # what is refused before the processes share the pair is refused by all
            self.trainer = build_trainer(config, self.pair, self.episodes.train, processes)
            if resume:
                self._load()
        with processes.sync_errors():
            if processes.is_first:
                self._prepare_folder(resume)

    def _load_episodes(self, device: torch.device) -> Episodes:
        """Load the data; the first process before the others if it may download what these then find."""
        processes, episodes = self.processes, None
        last = 1 if DATASETS[self.config.data.dataset].downloads else 0
        for turn in range(last + 1):
            with processes.sync_errors():
                if turn == (0 if processes.is_first else last):
                    episodes = build_episodes(self.config, device, processes.rank, processes.count)
        assert episodes is not None
        return episodes

    def _prepare_folder(self, resume: bool) -> None:
        if resume:
            self.folder.forget_after(self.trainer.step)
        else:
            self.folder.create()
        self.folder.write_config(self.config.to_json(), self.pair.sizes())

    def train(self, interruption: Interruption) -> int:
        """Step to the end of the plan, or to an interruption; either leaves a checkpoint.

        Returns:
            The signal that interrupted it, or 0.
        """
        trainer, steps = self.trainer, self.config.training.steps
        if trainer.step == 0:
            self.save()
        with (
            closing(self.episodes.train),
            self._open_board() as board,
            tqdm(total=steps, initial=trainer.step, unit="step", desc="training", dynamic_ncols=True) as bar,
        ):
            while trainer.step < steps and not self._is_stopped(interruption):
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
            stopped_by = interruption.agreed_signal()
            if stopped_by:
                self.save()
            return stopped_by

    def _open_board(self) -> AbstractContextManager[SummaryWriter | None]:
        if not self.processes.is_first:
            return nullcontext()
        return SummaryWriter(str(self.folder.tensorboard), purge_step=self.trainer.step + 1)

    def _is_stopped(self, interruption: Interruption) -> bool:
        """Whether to stop; several processes agree on that every few steps."""
        if self.processes.count > 1 and self.trainer.step % _AGREE_EVERY:
            return False
        return bool(interruption.agreed_signal())

    def _evaluate(self, board: SummaryWriter | None, bar: Any) -> None:
        """Look at the validation set, keep the best checkpoint beside the last, and draw."""
        with self.pair.evaluating():
            self._look(board, bar)

    def _look(self, board: SummaryWriter | None, bar: Any) -> None:
        try:
            left_out = self.config.training.left_out
            results = held_out_elbo(self.pair, self.episodes.validation, self.processes, left_out=left_out)
        except DivergenceError as error:
            raise DivergenceError(f"step {self.trainer.step}, validation: {error}") from error
        seconds = {"training_seconds": self.training_seconds, "data_wait_seconds": self.trainer.waited_seconds}
        self._log("validation", {**results, **{name: round(value, 1) for name, value in seconds.items()}}, board)
        bar.write(f"step {self.trainer.step:>6}  validation: {describe(results)}")
        elbo = self._trained_elbo(results)
        if elbo > self.best_elbo_nats_per_image:
            self.best_elbo_nats_per_image = elbo
            # Before the other: a run that is killed between the two repeats the steps, and finds it again.
            self._write(self.folder.best, {"step": self.trainer.step, "pair": self.pair.state_dict()})
        self.save()
        if board is not None:
            for name, figure in plot_figures(self.folder, self.pair, self.episodes.validation).items():
                board.add_figure(name, figure, self.trainer.step)

    def _trained_elbo(self, results: dict[str, float]) -> float:
        """The ELBO by which checkpoints are chosen: all counts for as much as in training.

        A random memory's own KL may count for less than in the ELBO, and images left out are among those trained on.
        """
        kl = results.get("kl_memory_nats_per_image", 0.0)
        elbo = results["elbo_nats_per_image"] + (1 - self.config.training.kl_memory_weight) * kl
        share = self.config.training.left_out / (self.config.training.left_out + self.config.data.episode_length)
        return elbo + share * (results.get("left_out_elbo_nats_per_image", elbo) - elbo)

    def _log(self, split: str, quantities: dict[str, float], board: SummaryWriter | None) -> None:
        if board is None:
            return
        self.folder.log(self.trainer.step, split, quantities)
        for name, value in quantities.items():
            board.add_scalar(f"{split}/{name}", value, self.trainer.step)

    def save(self) -> None:
        """Save everything that the next step depends on."""
        kept = {name: getattr(self, name) for name in _KEPT}
        self._write(self.folder.checkpoint, {**self.trainer.state_dict(), **kept})

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        if self.processes.is_first:
            save_checkpoint(path, state)

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

    def finish(self) -> None:
        """Score the test set once, with the best checkpoint; draw with it, and say where everything is."""
        with self.processes.sync_errors():
            step = self.best_step = load_pair(self.pair, self.folder.best)
        results = held_out_elbo(self.pair, self.episodes.test, self.processes, True, self.config.training.left_out)
        if not self.processes.is_first:
            return
        self.folder.log(step, "test", results)
        plot_figures(self.folder, self.pair, self.episodes.validation)
        print(f"test: {describe(results)} (checkpoint of step {step}, the best on the validation set)")
        gain, given = (results.get(f"{name}_nats_per_image") for name in ("memory_gain", "conditional_elbo"))
        print(
            f"Test ELBO {results['elbo_nats_per_image']:.2f} nats per image, "
            f"{'' if given is None else f'{given:.2f} given the memory, '}"
            f"memory gain {'not measured' if gain is None else f'{gain:.2f} nats per image'}, "
            f"run folder {self.folder.path}"
        )


def held_out_elbo(
    pair: Pair,
    episodes: EpisodeSet,
    processes: Processes = SINGLE_PROCESS,
    progress: bool = False,
    left_out: int = 0,
) -> dict[str, float]:
    """ELBO terms and memory gain of all episodes, leaving the random state of training untouched."""
    total = -(-len(episodes) // _EVALUATION_EPISODES)
    batches = tqdm(episodes.batches(_EVALUATION_EPISODES), "test", total, disable=not progress, leave=False)
    with pyro.validation_enabled(False):
        return mean_elbo(pair.model, pair.guide, batches, _EVALUATION_SEED, processes, left_out)


def train(config: Config | None = None, out: Path | str | None = None, *, resume: bool = False) -> Run:
    """Train a model/guide pair, score its ELBO on the test set, and open the run.

    Ctrl-C ends training after the step under way, and saves it; call again with `resume=True` to go on.

    Args:
        config: what to train; `Config()`, on the handwritten digits, if None.
        out: run folder; runs/DATASET-WRITE-TIME if None.
        resume: go on with the run in that folder.

    Returns:
        The run, with the pair of its best checkpoint.

    Raises:
        InputError: data, a device or a folder that cannot be had.
        DivergenceError: a loss, a gradient or a parameter that is not finite.
        KeyboardInterrupt: training was interrupted; it is saved.
    """
    config = resolve(Config() if config is None else config)
    run = TrainingRun(RunFolder(out or default_folder(config)), config, resume)
    with listening() as interruption:
        if run.train(interruption):
            raise KeyboardInterrupt(f"saved after step {run.trainer.step} in {run.folder.path}; resume=True goes on")
    run.finish()
    return Run(run.folder, config, run.pair.eval(), run.best_step)


def listening() -> AbstractContextManager[Interruption]:
    """What listens to Ctrl-C and SIGTERM; in a thread that gets no signals, nothing does."""
    main = threading.current_thread() is threading.main_thread()
    return Interruption() if main else nullcontext(Interruption())


def default_folder(config: Config) -> Path:
    """The folder of a run that is given none: runs/DATASET-WRITE-TIME, or with the model's name for the write's."""
    own = config.memory.write if config.program.model == ProgramConfig().model else config.program.model
    return Path("runs") / f"{config.data.dataset}-{own}-{datetime.now():%Y%m%d-%H%M%S}"


def _note_shared_blocks(config: Config) -> None:
    """Say so where images have to share blocks."""
    reads, blocks = config.data.episode_length * config.memory.reads, config.memory.layout.blocks
    if has_blocks(config) and reads > blocks:
        remark = f"note: {reads} reads of an episode share the memory's {blocks} blocks, which hold averages"
        print(remark, file=sys.stderr)
