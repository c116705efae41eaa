"""Stochastic variational inference: one step, its state, and nothing about which model it trains."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyro
import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from inference.errors import DivergenceError
from inference.metrics.elbo import describe
from inference.objectives.left_out import WithLeftOut
from inference.processes import SINGLE_PROCESS, Processes
from inference.tracing import elbo_terms, random_state, restore_random_state
from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import unrecorded_parameters
from models.pair import Pair

_CHECK_EVERY = 25  # steps, on GPUs, which looking at a loss makes wait, and where processes have to meet for it
_VALIDATED_STEPS = 1  # Pyro's checks of shapes and supports cost time, and catch what they can in the first step

KLWeights = Mapping[str, float] | Mapping[str, Tensor]  # by the name of the site
Loss = Callable[[Tensor, KLWeights], Tensor]  # minus the bound, of episodes (B, T, C, H, W), summed over them


@dataclass(frozen=True)
class KLSchedule:
    """Weight of one site's KL: `start` up to `begin_step`, then linear to 1 over `ramp_steps`."""

    start: float = 1.0
    begin_step: int = 0
    ramp_steps: int = 0

    @classmethod
    def constant(cls, weight: float) -> KLSchedule:
        """The same weight at every step."""
        return cls(weight, begin_step=sys.maxsize)

    def weight(self, step: int) -> float:
        """Weight at a step, counted from 0."""
        if step < self.begin_step:
            return self.start
        if step >= self.begin_step + self.ramp_steps:
            return 1.0
        return self.start + (1 - self.start) * (step - self.begin_step) / self.ramp_steps


class ScaleSites(Messenger):
    """Scales the log-probabilities of named sites, in whatever model and guide run inside it.

    Both sides of a KL have to be scaled alike: TraceMeanField_ELBO takes the scale of the guide's site alone.
    """

    def __init__(self, weights: KLWeights) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.weights:
            msg["scale"] = msg["scale"] * self.weights[msg["name"]]


def annealed(objective: nn.Module) -> Loss:
    """The loss of a pair's objective, as a function of the episodes and of the weights of its sites' KLs."""

    def loss(episode: Tensor, kl_weights: KLWeights) -> Tensor:
        with unrecorded_parameters(), ScaleSites(kl_weights):
            return objective(episode)

    return loss


class EpisodeSource(Protocol):
    """Where training episodes come from; those of a process, where there are several."""

    @property
    def generators(self) -> Sequence[torch.Generator]:
        """What `render` draws from, beside the default generator."""

    def draw(self, num_episodes: int) -> Tensor:
        """Say on the CPU what makes the next episodes, always in the same shape."""

    def render(self, drawn: Tensor) -> Tensor:
        """Turn what was drawn, moved to the device, into episodes (B, T, C, H, W)."""

    def state_dict(self) -> dict[str, Any]:
        """Random state, as tensors and plain data."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""

    def load_order(self, state: dict[str, Any]) -> None:
        """Continue the order of another process's state, which all share, with noise of one's own."""


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    Attributes:
        steps: optimiser steps in all; the learning rate falls to zero over them.
        episodes_per_step: B, of all processes together.
        learning_rate: of Adam, reached after `warmup_steps`, then falling by a cosine.
        warmup_steps: steps of linear warm-up.
        weight_decay: decoupled (AdamW).
        gradient_norm: gradients are clipped to this global norm.
        kl_schedules: schedule of the KL weight of each site, by the site's name.
        left_out: images of every episode that are not written, see `WithLeftOut`.
    """

    steps: int
    episodes_per_step: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float = 0.0
    gradient_norm: float = 10.0
    kl_schedules: Mapping[str, KLSchedule] = field(default_factory=dict)
    left_out: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class StepResult:
    """What a step found, on its device.

    Attributes:
        loss: -ELBO in nats per image, with the step's KL weights, of this process's episodes.
        gradient_norm: of the gradient over all processes, before it is clipped.
    """

    loss: Tensor
    gradient_norm: Tensor


class Step:
    """Renders episodes, and descends along the gradient of the loss per image.

    Nothing here waits for the device. A step whose gradient is not finite changes no parameter. One whose loss or
    gradient is not finite adds one to `nonfinite_steps`, for the caller to find; if it is the loss, to
    `nonfinite_losses` too.

    Args:
        loss: -ELBO of episodes, summed, with a KL weight for every site by its name.
        optimizer: a fused one, which divides the gradient by `grad_scale` and skips a step where `found_inf` is set, as
            for mixed precision; so clipping needs no pass over the gradient of its own.
        render: from what is drawn of the data to episodes (B, T, C, H, W).
        gradient_norm: largest norm of the gradient; a longer one is scaled down to it.
    """

    def __init__(
        self,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        render: Callable[[Tensor], Tensor],
        gradient_norm: float,
    ) -> None:
        self.loss, self.optimizer, self.render = loss, optimizer, render
        self.gradient_norm = gradient_norm
        self.parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        self.nonfinite_steps = torch.zeros((), device=self.device)
        self.nonfinite_losses = torch.zeros((), device=self.device)

    def __call__(self, drawn: Tensor, kl_weights: KLWeights) -> StepResult:
        """Take a step on what was drawn, on the device."""
        episode = self.render(drawn)
        loss = self.loss(episode, kl_weights) / (episode.shape[0] * episode.shape[1])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return StepResult(loss.detach(), self.descend(loss.detach()))

    def descend(self, loss: Tensor) -> Tensor:
        """Clip the gradient of a loss and follow it, if it is finite; returns its norm before that."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self.optimizer.grad_scale = (norm / self.gradient_norm).clamp(min=1)  # type: ignore[attr-defined]
        self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]  # the same in all processes
        self.optimizer.step()
        self.nonfinite_steps += (~(loss + norm).isfinite()).float()
        self.nonfinite_losses += (~loss.isfinite()).float()
        return norm


class Stepper(Protocol):
    """Takes steps, in one way or another."""

    step: Step

    def __call__(self, drawn: Tensor, kl_weights: Mapping[str, float], learning_rate: float) -> StepResult:
        """Take a step on what was drawn on the CPU."""


class EagerStepper:
    """Takes steps one operation after the other; of the generators, it needs to know nothing."""

    capturable = False

    def __init__(self, step: Step, _generators: Sequence[torch.Generator] = ()) -> None:
        self.step = step

    def __call__(self, drawn: Tensor, kl_weights: Mapping[str, float], learning_rate: float) -> StepResult:
        """Take a step on what was drawn on the CPU."""
        self.step.optimizer.param_groups[0]["lr"] = learning_rate
        return self.step(drawn.to(self.step.device, non_blocking=True), kl_weights)


class Trainer:
    """Trains a model/guide pair; `state_dict` holds all that the next step depends on.

    Attributes:
        waited_seconds: how long all steps have waited for `episodes.draw`, as they do where images have to be decoded.

    Args:
        pair: Pyro model and its guide.
        objective: makes the loss of the pair.
        episodes: where episodes come from.
        plan: how to train.
        stepper: makes what takes steps, of a step and the generators that it draws from: `EagerStepper`, or
            `CapturedStepper`, for a CUDA device, a single process and an objective of tensors.
        processes: this process among those that train together.
    """

    def __init__(
        self,
        pair: Pair,
        objective: ELBO,
        episodes: EpisodeSource,
        plan: TrainingPlan,
        stepper: Any = EagerStepper,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.pair, self.episodes, self.plan, self.processes = pair, episodes, plan, processes
        self.step = 0
        self.waited_seconds = 0.0
        self.parameters = list(pair.parameters())
        self.device = self.parameters[0].device
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=torch.tensor(plan.learning_rate, device=self.device) if stepper.capturable else plan.learning_rate,
            weight_decay=plan.weight_decay,
            fused=True,
            capturable=stepper.capturable,
        )
        bound = objective(pair.model, pair.guide)
        loss = WithLeftOut(bound, plan.left_out) if plan.left_out else bound
        step = Step(annealed(processes.share(loss)), self.optimizer, episodes.render, plan.gradient_norm)
        self._make_stepper = stepper
        self.stepper = self.new_stepper(step)
        self._last: tuple[int, Tensor, StepResult] | None = None
        self._failure: InputError | None = None
        self.check_every = 1 if self.device.type == "cpu" and processes.count == 1 else _CHECK_EVERY

    def train_step(self) -> StepResult:
        """Take one step.

        Raises:
            DivergenceError: a loss or its gradient is not finite; no parameter has been changed by it. On a GPU, and by
                several processes, this is found out up to some steps later.
        """
        drawn = self._draw()
        with pyro.validation_enabled(self.step < _VALIDATED_STEPS):
            result = self.stepper(drawn, self.kl_weights(self.step), self.plan.learning_rate_at(self.step))
        self._last = self.step + 1, drawn, result
        if (self.step + 1) % self.check_every == 0:
            self._require_finite()
        self.step += 1
        return result

    def _draw(self) -> Tensor:
        """Draw this process's episodes; an error that others do not meet waits until all look for one together."""
        began = time.perf_counter()
        try:
            return self.episodes.draw(self.plan.episodes_per_step // self.processes.count)
        except InputError as error:
            if self.processes.count == 1 or self._last is None:
                raise
            self._failure = error
            return self._last[1]
        finally:
            self.waited_seconds += time.perf_counter() - began

    def new_stepper(self, step: Step) -> Stepper:
        """What takes a step the way this trainer does, captured or not."""
        return self._make_stepper(step, self.episodes.generators)

    def kl_weights(self, step: int) -> dict[str, float]:
        """KL weight of every site that has a schedule."""
        return {name: schedule.weight(step) for name, schedule in self.plan.kl_schedules.items()}

    def quantities(self, result: StepResult) -> dict[str, float]:
        """Quantities of the last step by full name; the ELBO is the annealed one, of the episodes of all processes."""
        step = self.step - 1
        return {
            "annealed_elbo_nats_per_image": -self.processes.sum(result.loss).item() / self.processes.count,
            "gradient_norm": result.gradient_norm.item(),
            "learning_rate": self.plan.learning_rate_at(step),
            **{f"kl_{name}_weight": weight for name, weight in self.kl_weights(step).items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on, as tensors and plain data; of all processes, which all have to ask.

        Raises:
            DivergenceError: a step or a parameter was not finite, so that no state is worth keeping.
        """
        self._require_finite(of_parameters=True)
        own = {"episodes": self.episodes.state_dict(), "random": random_state(self.device)}
        return {
            "step": self.step,
            "waited_seconds": self.waited_seconds,
            "pair": self.pair.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "processes": self.processes.gather(own),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state: bit for bit on a CPU with as many processes, with noise of its own in a new one."""
        self.step, self.waited_seconds = state["step"], state["waited_seconds"]
        self.pair.load_state_dict(state["pair"])
        settings = self.optimizer.state_dict()["param_groups"]  # the plan's, whatever the state was saved with
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": settings})
        self.stepper = self.new_stepper(self.stepper.step)  # a graph would go on with the state of before
        if self.processes.rank < len(state["processes"]):
            own = state["processes"][self.processes.rank]
            self.episodes.load_state_dict(own["episodes"])
            restore_random_state(own["random"], self.device)
        else:
            self.episodes.load_order(state["processes"][0]["episodes"])

    def _require_finite(self, of_parameters: bool = False) -> None:
        """Raise an error that this process has met, in all of them together."""
        if self.processes.count == 1:
            return self._require_own_finite(of_parameters)
        with self.processes.sync_errors():
            return self._require_own_finite(of_parameters)

    def _require_own_finite(self, of_parameters: bool) -> None:
        if self._failure is not None:
            raise self._failure
        if self.stepper.step.nonfinite_steps > 0:
            raise DivergenceError(self._diagnosis())
        if of_parameters and not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            raise DivergenceError(f"step {self.step}: a parameter is not finite; try a lower --learning-rate")

    def _diagnosis(self) -> str:
        assert self._last is not None
        number, drawn, result = self._last
        with pyro.validation_enabled(False):
            episode = self.episodes.render(drawn.to(self.device))
            written = episode[:, : episode.shape[1] - self.plan.left_out]
            terms = elbo_terms(self.pair.model, self.pair.guide, written)
        culprit = "the loss" if self.stepper.step.nonfinite_losses > 0 else "the gradient of the loss"
        where = f"step {number}" if self.check_every == 1 else f"one of the last {self.check_every} steps, to {number}"
        return (
            f"{where}: {culprit} is not finite (loss {result.loss.item():.4g}; {describe(terms.mean().as_dict())}); "
            "try a lower --learning-rate"
        )
