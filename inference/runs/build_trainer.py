"""The trainer of a pair and a configuration."""

from __future__ import annotations

from inference.processes import SINGLE_PROCESS, Processes
from inference.runs.capacity import require_step_capacity
from inference.runs.config import Config
from inference.runs.config_parts import TrainingConfig
from inference.runs.cuda_graph import CapturedStepper
from inference.runs.resolve import resolve_capture
from inference.runs.trainer import EagerStepper, EpisodeSource, KLSchedule, Stepper, Trainer, TrainingPlan
from kpp_pyro.errors import InputError
from models.pair import Pair


def kl_schedules(training: TrainingConfig) -> dict[str, KLSchedule]:
    """Schedules of the KL weights by the name of the site; none of a memory whose KL always has a weight of 1."""
    ends = {"key": (training.kl_key_start, 1.0), "latent": (training.kl_latent_start, 1.0)}
    end, start = training.kl_memory_weight, training.kl_memory_start
    memory = (end if start is None else start, end)
    if memory != (1, 1):
        ends["memory"] = memory
    steps = training.kl_begin_step, training.kl_ramp_steps
    return {name: KLSchedule(start, *steps, end) for name, (start, end) in ends.items()}


def build_trainer(
    config: Config, pair: Pair, episodes: EpisodeSource, processes: Processes = SINGLE_PROCESS
) -> Trainer:
    """Build the trainer of a pair.

    Args:
        config: its objective, optimiser and KL weights.
        pair: model and guide to train.
        episodes: training episodes, of this process.
        processes: those that train together.

    Raises:
        InputError: `--capture on` where a step cannot be captured, episodes that do not divide among the processes, or
            a step that does not fit into memory.
    """
    training = config.training
    if training.episodes_per_step % processes.count:
        raise InputError(
            f"--episodes-per-step: expected a multiple of the {processes.count} processes that share them, "
            f"found {training.episodes_per_step}"
        )
    require_step_capacity(config, pair, processes.count)
    plan = TrainingPlan(
        training.steps,
        training.episodes_per_step,
        training.learning_rate,
        training.warmup_steps,
        training.weight_decay,
        kl_schedules=kl_schedules(training),
    )
    capture = resolve_capture(config, pair.device, processes.count)
    stepper: type[Stepper] = CapturedStepper if capture else EagerStepper
    return Trainer(pair, training.bound(training.particles), episodes, plan, stepper, processes)
