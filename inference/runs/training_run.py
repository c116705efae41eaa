"""Training of a run: steps, validation, checkpoints, metrics and figures, in a run folder."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import pyro
import torch
from pydantic_core import to_jsonable_python

from inference.errors import DivergenceError
from inference.metrics.elbo import describe, mean_elbo
from inference.processes import SINGLE_PROCESS, Processes
from inference.runs.build_trainer import build_trainer
from inference.runs.capacity import require_training_capacity
from inference.runs.config import Config, naming
from inference.runs.data import Episodes, build_episodes
from inference.runs.interruption import Interruption
from inference.runs.load import Run, load_pair, read_run, start_from
from inference.runs.loggers import LOGGERS, Logger
from inference.runs.plots import plot_figures, plot_memory_at_work
from inference.runs.plugins import records_of
from inference.runs.resolve import is_open, resolve
from inference.runs.rules import has_blocks, reads_and_blocks
from inference.tracing import seed_of
from kpp_pyro.arguments import checked
from kpp_pyro.data import DATASETS, EpisodeSet
from kpp_pyro.errors import InputError
from kpp_pyro.files.checkpoint import fitting, read_checkpoint, require_like, save_checkpoint
from kpp_pyro.files.claim import claimed
from kpp_pyro.files.reading import as_path
from kpp_pyro.files.run_folder import RunFolder
from kpp_pyro.files.run_schemas import BestCheckpoint, TrainingCheckpoint
from kpp_pyro.likelihoods import with_bits_per_dim
from kpp_pyro.progress import Progress, show_progress
from models.build import build
from models.pair import Pair

_LOG_EVERY = 50  # steps
_AGREE_EVERY = 10  # steps between agreements of several processes on whether to stop
_EVALUATION_EPISODES = 8  # per batch; the processes share the batches
_EVALUATION_SEED = 0  # every evaluation has the same random draws: checkpoints are compared fairly

RESUMABLE = ("steps", "evaluate_every", "patience", "logger", "capture", "data_dir", "workers", "device")
"""Fields that may change when a run is resumed."""


class TrainingRun:
    """A pair in training, and its run folder; only the first of several processes writes to it.

    The folder is not changed before data, device, configuration and checkpoint have been checked. As a context manager,
    it opens the configuration's logger, and closes it at the end; otherwise nothing but the folder is written.

    Args:
        folder: the run folder, claimed by this process (see `claimed_folder`).
        config: a resolved configuration.
        resume: continue from the folder's last checkpoint.
        processes: those that train together.

    Raises:
        InputError: data that cannot be loaded, a checkpoint that does not fit, or a folder that is not new.
    """

    def __init__(
        self, folder: RunFolder, config: Config, resume: bool = False, processes: Processes = SINGLE_PROCESS
    ) -> None:
        self.folder, self.config, self.processes = folder, config, processes
        device = torch.device(config.device)
        with processes.sync_errors():
            require_training_capacity(config, device, processes.count)
        self.episodes = self._load_episodes(device)
        self.config = config = config.replace(episode_length=self.episodes.test.episode_length)
        with processes.sync_errors():
            self.pair = build(config, self.episodes.train.image_shape, device)
            if config.training.start_from and not (resume and self._has_begun()):
                _note_new_parts(start_from(self.pair, config.training.start_from), self.pair, processes)
        torch.manual_seed(seed_of(config.seed, processes.rank))  # equal parameters, but different draws in each process
        self.best_elbo_nats_per_image = float("-inf")
        self.best_step = 0  # of the best checkpoint; set by `finish`
        self.evaluations_since_best = 0
        self.logger = Logger()
        self.training_seconds = 0.0  # of steps only, over all sessions of the run
        with processes.sync_errors():  # before the processes share the pair, all raise the error of one
            self.trainer = build_trainer(config, self.pair, self.episodes.train, processes)
            if resume and self._has_begun():
                self._load()
        with processes.sync_errors():
            if processes.is_first:
                self._prepare_folder(resume)
                _note_shared_blocks(config)

    def __enter__(self) -> TrainingRun:
        """Open the logger.

        Raises:
            OutputError: the record cannot be written.
        """
        with self.processes.sync_errors():
            if self.processes.is_first:
                self.logger = LOGGERS[self.config.training.logger].open(self.folder, self.trainer.step + 1)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the logger."""
        self.logger.close()

    def _has_begun(self) -> bool:
        """Whether there is a checkpoint to go on with; a run killed at its very start has empty metrics only."""
        folder = self.folder
        empty = folder.metrics.exists() and not folder.read_metrics()
        return folder.checkpoint.exists() or folder.best.exists() or not empty

    def _load_episodes(self, device: torch.device) -> Episodes:
        """Load the data. If it may be downloaded, the first process loads before the others."""
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
            self.folder.require_writable()
            self.folder.forget_after(self.trainer.step)
        else:
            self.folder.create()
        self.folder.write_config(self.config.to_json(), self.pair.sizes(), records_of(self.config.flat()))

    def train(self, interruption: Interruption) -> int:
        """Train until the last step, --patience is at its end, or an interruption; all leave a checkpoint.

        Returns:
            The number of the signal that interrupted training, or 0.

        Raises:
            DivergenceError: a loss, a gradient or a parameter is not finite.
        """
        try:
            return self._train(interruption)
        except DivergenceError as error:
            raise DivergenceError(f"{error}; checkpoint.pt is the last good one") from error

    def _train(self, interruption: Interruption) -> int:
        trainer, steps, every = self.trainer, self.config.training.steps, self.config.training.evaluate_every
        self.logger.add_config(to_jsonable_python(self.config.flat()))
        if trainer.step == 0:
            self.save()
        with (
            closing(self.episodes.train),
            show_progress(label="training", total=steps, initial=trainer.step, unit="step", pause_every=every) as bar,
        ):
            while trainer.step < steps and not self._is_out_of_patience and not self._is_stopped(interruption):
                began = time.perf_counter()
                result = trainer.train_step()
                self.training_seconds += time.perf_counter() - began
                bar.update()
                if trainer.step % _LOG_EVERY == 0 or trainer.step == steps:
                    quantities = trainer.quantities(result)
                    self._log(trainer.step, "train", quantities)
                    elbo = quantities["annealed_elbo_nats_per_image"]
                    bar.set_postfix_str(f"annealed ELBO {elbo:.1f} nats per image")
                if trainer.step % every == 0 or trainer.step == steps:
                    with bar.pause(), self.pair.evaluating():
                        self._evaluate(bar)
            stopped_by = interruption.agreed_signal()
            if stopped_by:
                self.save()
        if self._is_out_of_patience and trainer.step < steps and not stopped_by:
            print(
                f"Training ends after step {trainer.step} of {steps}: the validation bound has not improved in "
                f"{self.evaluations_since_best} evaluations (--patience {self.config.training.patience})"
            )
        return stopped_by

    @property
    def _is_out_of_patience(self) -> bool:
        """Whether training ends early; the same in all processes, which share the evaluations."""
        patience = self.config.training.patience
        return patience is not None and self.evaluations_since_best >= patience

    def _is_stopped(self, interruption: Interruption) -> bool:
        """Whether to stop; several processes agree every few steps."""
        if self.processes.count > 1 and self.trainer.step % _AGREE_EVERY:
            return False
        return bool(interruption.agreed_signal())

    def _evaluate(self, bar: Progress) -> None:
        """Validate, save the last and the best checkpoint, and plot the figures."""
        try:
            results = held_out_elbo(self.pair, self.episodes.validation, self.processes)
        except DivergenceError as error:
            raise DivergenceError(f"step {self.trainer.step}, validation: {error}") from error
        seconds = {"training_seconds": self.training_seconds, "data_wait_seconds": self.trainer.waited_seconds}
        rounded = {name: round(value, 1) for name, value in seconds.items()}
        self._log(self.trainer.step, "validation", {**results, **rounded})
        bar.write(f"step {self.trainer.step:>6}  validation: {describe(results)}")
        elbo = self._trained_elbo(results)
        if elbo > self.best_elbo_nats_per_image:
            self.best_elbo_nats_per_image, self.evaluations_since_best = elbo, 0
            # best.pt first: a run killed before the other is written repeats these steps, and writes both again.
            self._write(self.folder.best, {"step": self.trainer.step, "pair": self.pair.state_dict()})
        else:
            self.evaluations_since_best += 1
        self.save()
        if self.processes.is_first and self.trainer.step < self.config.training.steps:  # at the end `finish` plots them
            self._plot(self.trainer.step)

    def _plot(self, step: int) -> None:
        figures = plot_figures(self.folder, self.pair, self.episodes.validation)
        self.logger.add_figures(figures, step)

    def _trained_elbo(self, results: dict[str, float]) -> float:
        """The ELBO that chooses the best checkpoint: a random memory's own KL has the weight of training."""
        kl = results.get("kl_memory_nats_per_image", 0.0)
        return results["elbo_nats_per_image"] + (1 - self.config.training.kl_memory_weight) * kl

    def _log(self, step: int, split: str, quantities: dict[str, float]) -> None:
        if self.processes.is_first:
            quantities = with_bits_per_dim(quantities, self.pair.model.image_shape)
            self.folder.log(step, split, quantities)
            self.logger.add_scalars(split, quantities, step)

    def save(self) -> None:
        """Save the last checkpoint: the state that the next step depends on."""
        saved = {
            "best_elbo_nats_per_image": self.best_elbo_nats_per_image,
            "evaluations_since_best": self.evaluations_since_best,
            "training_seconds": self.training_seconds,
        }
        self._write(self.folder.checkpoint, {**self.trainer.state_dict(), **saved})

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        if self.processes.is_first:
            save_checkpoint(path, state)

    def _load(self) -> None:
        """Continue from the last checkpoint.

        Raises:
            InputError: a missing or damaged file, parameters of other shapes, or more steps taken than --steps.
        """
        state = read_checkpoint(self.folder.checkpoint, TrainingCheckpoint)
        with fitting(self.folder.checkpoint):
            self.trainer.load_state_dict(state.model_dump())
        self.best_elbo_nats_per_image, self.training_seconds = state.best_elbo_nats_per_image, state.training_seconds
        self.evaluations_since_best = state.evaluations_since_best
        if state.best_elbo_nats_per_image > float("-inf"):  # `finish` needs it, after what may be hours
            best = read_checkpoint(self.folder.best, BestCheckpoint)
            with fitting(self.folder.best):
                require_like(best.pair, self.pair.state_dict(), "parameters")
        if self.config.training.steps < self.trainer.step:
            raise InputError(
                f"--steps: expected at least the {self.trainer.step} that {self.folder.path} has taken, "
                f"found {self.config.training.steps}"
            )

    def finish(self) -> None:
        """Evaluate the best checkpoint on the test set; plot its figures, and print the results and the run folder."""
        with self.processes.sync_errors():
            step = self.best_step = load_pair(self.pair, self.folder.best)
        results = held_out_elbo(self.pair, self.episodes.test, self.processes, True)
        if not self.processes.is_first:
            return
        self._log(step, "test", results)
        self._plot(step)
        self.logger.add_figures(plot_memory_at_work(self.folder, self.pair, self.episodes.test), step)
        print(f"test: {describe(results)} (checkpoint of step {step}, the best on the validation set)")
        names = ("memory_gain", "conditional_elbo", "left_out_elbo")
        gain, conditional, left_out = (results.get(f"{name}_nats_per_image") for name in names)
        print(
            f"Test ELBO {results['elbo_nats_per_image']:.2f} nats per image, "
            f"{'' if conditional is None else f'with the KL of the memory; {conditional:.2f} given the memory; '}"
            f"{'' if left_out is None else f'{left_out:.2f} of the last image, left out; '}"
            f"memory gain {'not measured' if gain is None else f'{gain:.2f} nats per image'}, "
            f"run folder {self.folder.path}"
        )


def held_out_elbo(
    pair: Pair,
    episodes: EpisodeSet,
    processes: Processes = SINGLE_PROCESS,
    progress: bool = False,
) -> dict[str, float]:
    """Mean ELBO terms and memory gain over held-out episodes; the random state of training does not change.

    Args:
        pair: model and guide.
        episodes: held-out episodes.
        processes: those that share the episodes.
        progress: whether to show a progress bar.

    Returns:
        Quantities by name with unit, see `mean_elbo`.

    Raises:
        DivergenceError: an ELBO is not finite.
    """
    total = -(-len(episodes) // _EVALUATION_EPISODES)
    batches = show_progress(
        episodes.batches(_EVALUATION_EPISODES), "test", total=total, unit="batch", disable=not progress, leave=False
    )
    with pyro.validation_enabled(False):
        return mean_elbo(pair.model, pair.guide, batches, _EVALUATION_SEED, processes)


@checked
@torch.inference_mode(False)
@torch.enable_grad()
def train(config: Config | None = None, out: Path | str | None = None, *, resume: bool = False) -> Run:
    """Train a model/guide pair, and evaluate its best checkpoint on the test set.

    At the end, RUN/figures/memory_at_work.png shows a test episode, its memory, recall and samples, if there is one.

    Ctrl-C stops training after the current step and saves it; call again with `resume=True` to continue.

    Args:
        config: the configuration; None: `Config()`, which trains on the digits.
        out: run folder; None: a new one, runs/DATASET-WRITE-TIME.
        resume: continue the run in that folder.

    Returns:
        The run, with the pair of its best checkpoint.

    Raises:
        InputError: data that cannot be loaded, a device that is missing, or a folder that cannot be used.
        DivergenceError: a loss, a gradient or a parameter is not finite.
        KeyboardInterrupt: training was interrupted; its state is saved.
    """
    if resume and out is None:
        raise InputError("out: expected the folder of a run with resume=True, found None")
    config = resolve(Config() if config is None else config)
    if out is not None and resume:
        config = _as_before(config, RunFolder(out))
    with claimed_folder(config, out, resume) as folder, TrainingRun(folder, config, resume) as run:
        with _interruption() as interruption:
            if run.train(interruption):
                raise KeyboardInterrupt(f"saved after step {run.trainer.step} in {folder.path}; resume=True goes on")
        run.finish()
    return Run(folder, run.config, run.pair.eval(), run.best_step)


def _as_before(config: Config, folder: RunFolder) -> Config:
    """The configuration with T as in a run; InputError unless it is that of the run, but for `RESUMABLE` fields."""
    stored, given = read_run(folder.path)[1].flat(), config.flat()
    for name in given:
        if name not in RESUMABLE and not is_open(name, given[name]) and given[name] != stored[name]:
            raise InputError(f"config: expected {name} {stored[name]} of the run {folder.path}, found {given[name]}")
    return config.replace(episode_length=stored["episode_length"])


def _interruption() -> AbstractContextManager[Interruption]:
    """An `Interruption` that handles Ctrl-C and SIGTERM, in the main thread; elsewhere it has no handlers."""
    main = threading.current_thread() is threading.main_thread()
    return Interruption() if main else nullcontext(Interruption())


@contextmanager
def claimed_folder(config: Config, out: Path | str | None = None, resume: bool = False) -> Iterator[RunFolder]:
    """Claim the folder of a run: no other process writes to it meanwhile.

    Args:
        config: names the default folder and the logger.
        out: the folder; None: a new one, see `default_folder`.
        resume: the folder holds a run; otherwise it may hold none.

    Raises:
        InputError: a folder in use, one that holds a run, or one that cannot be written to; a logger that is not
            installed.
    """
    LOGGERS[config.training.logger].require_installed()
    flag = "--resume" if resume else "--out"
    with naming(flag):
        path = default_folder(config) if out is None else as_path(out, "a run folder")
    with claimed(path, flag, unique=out is None) as taken:
        folder = RunFolder(taken)
        if not resume:
            folder.require_new()
        yield folder


def default_folder(config: Config) -> Path:
    """The default run folder: runs/DATASET-WRITE-TIME for Kanerva++, runs/DATASET-MODEL-TIME for other models.

    Of several runs that begin in the same second, all but one get a number too.
    """
    return Path("runs") / f"{config.data.dataset}-{config.name}-{datetime.now():%Y%m%d-%H%M%S}"


def _note_new_parts(names: Sequence[str], pair: Pair, processes: Processes) -> None:
    """Print a note of the parameters that no run gave a start."""
    if names and processes.is_first:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        of_all = f"{len(names)} of {len(pair.state_dict())} tensors of parameters"
        print(f"note: {of_all} are not those of --start-from, and start as usual: {some}", file=sys.stderr)


def _note_shared_blocks(config: Config) -> None:
    """Print a note if the reads of an episode have to share blocks."""
    reads, blocks = reads_and_blocks(config)
    if has_blocks(config) and reads > blocks:
        remark = f"note: {reads} reads of an episode share the memory's {blocks} blocks, which hold averages"
        print(remark, file=sys.stderr)
