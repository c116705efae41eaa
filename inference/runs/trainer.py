"""Stochastic variational inference of any model/guide pair: steps, KL weights, and the trainer's state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import pyro
import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from inference.errors import DivergenceError
from inference.metrics.elbo import describe
from inference.processes import SINGLE_PROCESS, Processes
from inference.tracing import elbo_terms, random_state, restore_random_state
from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import unrecorded_parameters
from kpp_pyro.files.checkpoint import require_like
from models.pair import Pair

_CHECK_EVERY = 25  # steps; reading a loss makes a GPU wait, and several processes communicate
_VALIDATED_STEPS = 1  # steps with Pyro's checks of shapes and supports, which cost time

KLWeights = Mapping[str, float] | Mapping[str, Tensor]  # weight of each site's KL, by the site's name
Loss = Callable[[Tensor, KLWeights], Tensor]  # -bound of episodes (B, T, C, H, W), summed over images


@dataclass(frozen=True)
class KLSchedule:
    """Weight of one site's KL: `start` up to `begin_step`, then linear to `end` over `ramp_steps` steps."""

    start: float = 1.0
    begin_step: int = 0
    ramp_steps: int = 0
    end: float = 1.0

    def weight(self, step: int) -> float:
        """Weight at a step, counted from 0."""
        if step < self.begin_step:
            return self.start
        if step >= self.begin_step + self.ramp_steps:
            return self.end
        return self.start + (self.end - self.start) * (step - self.begin_step) / self.ramp_steps


class ScaleSites(Messenger):
    """Scales the log-probabilities of named sites, in every model and guide that runs inside it.

    Model and guide need the same scale: TraceMeanField_ELBO scales a KL by the guide's site only.

    Args:
        weights: scale of each site, by its name.
    """

    def __init__(self, weights: KLWeights) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.weights:
            msg["scale"] = msg["scale"] * self.weights[msg["name"]]


def annealed(objective: nn.Module) -> Loss:
    """The loss of an objective, as a function of the episodes and of the KL weights."""

    def loss(episode: Tensor, kl_weights: KLWeights) -> Tensor:
        with unrecorded_parameters(), ScaleSites(kl_weights):
            return objective(episode)

    return loss


class EpisodeSource(Protocol):
    """A source of training episodes, for one process."""

    @property
    def generators(self) -> Sequence[torch.Generator]:
        """Random generators that `render` draws from, in addition to the default one."""

    def draw(self, num_episodes: int) -> Tensor:
        """Indices and random numbers of the next episodes, on the CPU, always of the same shape."""

    def render(self, drawn: Tensor) -> Tensor:
        """Episodes (B, T, C, H, W) of a draw that was moved to the device."""

    def state_dict(self) -> dict[str, Any]:
        """Random state, as tensors and plain data."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""

    def load_order(self, state: dict[str, Any]) -> None:
        """Continue the order of images of another process's state; binarization stays this process's own."""


@dataclass(frozen=True)
class TrainingPlan:
    """Steps, learning rate and KL weights of a training.

    Attributes:
        steps: optimiser steps of the whole run; the learning rate falls to zero over them.
        episodes_per_step: B, summed over processes.
        learning_rate: Adam's largest learning rate: reached after `warmup_steps`, then falling by a cosine.
        warmup_steps: steps of linear warm-up.
        weight_decay: decoupled weight decay (AdamW).
        gradient_norm: largest global norm of the gradient; a larger one is scaled down to it.
        kl_schedules: schedule of each site's KL weight, by the site's name.
    """

    steps: int
    episodes_per_step: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float = 0.0
    gradient_norm: float = 10.0
    kl_schedules: Mapping[str, KLSchedule] = field(default_factory=dict)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class StepResult:
    """Results of a step, on its device.

    Attributes:
        loss: -bound in nats per image, with the step's KL weights, of this process's episodes.
        gradient_norm: global norm of the gradient over all processes, before clipping.
    """

    loss: Tensor
    gradient_norm: Tensor


class Step:
    """One optimiser step on the loss per image; nothing in it waits for the device.

    A step with a non-finite gradient changes no parameter. A step with a non-finite loss or gradient increments
    `nonfinite_steps`; one with a non-finite loss also increments `nonfinite_losses`. The caller checks both.

    Args:
        loss: -bound of episodes, summed over images, with a KL weight for every site by its name.
        optimizer: a fused optimiser. It divides the gradient by `grad_scale` and skips a step where `found_inf` is set,
            as in mixed precision; clipping thus needs no separate pass over the gradient.
        render: turns a draw into episodes (B, T, C, H, W).
        gradient_norm: largest global norm of the gradient; a larger one is scaled down to it.
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
        """Take a step on a draw on the device."""
        episode = self.render(drawn)
        loss = self.loss(episode, kl_weights) / (episode.shape[0] * episode.shape[1])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return StepResult(loss.detach(), self.descend(loss.detach()))

    def descend(self, loss: Tensor) -> Tensor:
        """Clip the gradient and update the parameters, unless it is non-finite; returns its norm before clipping."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self.optimizer.grad_scale = (norm / self.gradient_norm).clamp(min=1)  # type: ignore[attr-defined]
        self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]  # equal in all processes
        self.optimizer.step()
        self.nonfinite_steps += (~(loss + norm).isfinite()).float()
        self.nonfinite_losses += (~loss.isfinite()).float()
        return norm


class Stepper(Protocol):
    """Takes steps, eagerly or as a CUDA graph.

    Attributes:
        capturable: the optimiser's state lies on the device as tensors, for a graph that reads it.
        step: the step that is taken.
    """

    capturable: ClassVar[bool]
    step: Step

    def __init__(self, step: Step, generators: Sequence[torch.Generator]) -> None: ...

    def __call__(self, drawn: Tensor, kl_weights: Mapping[str, float], learning_rate: float) -> StepResult:
        """Take a step on a draw on the CPU."""


class EagerStepper:
    """Takes steps one operation after the other, without a CUDA graph."""

    capturable: ClassVar[bool] = False

    def __init__(self, step: Step, generators: Sequence[torch.Generator] = ()) -> None:
        self.step = step

    def __call__(self, drawn: Tensor, kl_weights: Mapping[str, float], learning_rate: float) -> StepResult:
        """Take a step on a draw on the CPU."""
        self.step.optimizer.param_groups[0]["lr"] = learning_rate
        return self.step(drawn.to(self.step.device, non_blocking=True), kl_weights)


class Trainer:
    """Trains a model/guide pair.

    Args:
        pair: Pyro model and its guide.
        objective: the bound; called with model and guide, it gives the loss.
        episodes: source of training episodes.
        plan: steps, learning rate and KL weights.
        stepper: `EagerStepper`, or `CapturedStepper` for one process on a CUDA device with a capturable objective.
        processes: those that train together.

    Attributes:
        step: number of steps taken.
        waited_seconds: time that all steps together have waited for `episodes.draw`, such as for decoded pictures.
    """

    def __init__(
        self,
        pair: Pair,
        objective: ELBO,
        episodes: EpisodeSource,
        plan: TrainingPlan,
        stepper: type[Stepper] = EagerStepper,
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
        loss = objective(pair.model, pair.guide)
        step = Step(annealed(processes.share(loss)), self.optimizer, episodes.render, plan.gradient_norm)
        self._make_stepper = stepper
        self.stepper = self.new_stepper(step)
        self._last: tuple[int, Tensor, StepResult] | None = None
        self._failure: InputError | None = None
        self.check_every = 1 if self.device.type == "cpu" and processes.count == 1 else _CHECK_EVERY

    def train_step(self) -> StepResult:
        """Take one step.

        Raises:
            DivergenceError: the loss or its gradient is not finite; that step has changed no parameter. On a GPU, or
                with several processes, the error is raised up to 25 steps later.
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
        """Draw this process's episodes. Of several processes, one with an InputError keeps it for `_require_finite`."""
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
        """A stepper of this trainer's kind, for any step."""
        return self._make_stepper(step, self.episodes.generators)

    def kl_weights(self, step: int) -> dict[str, float]:
        """KL weight of every site with a schedule, at a step counted from 0."""
        return {name: schedule.weight(step) for name, schedule in self.plan.kl_schedules.items()}

    def quantities(self, result: StepResult) -> dict[str, float]:
        """Quantities of the last step, by name with unit; the annealed ELBO is the mean over all processes."""
        step = self.step - 1
        return {
            "annealed_elbo_nats_per_image": -self.processes.sum(result.loss).item() / self.processes.count,
            "gradient_norm": result.gradient_norm.item(),
            "learning_rate": self.plan.learning_rate_at(step),
            **{f"kl_{name}_weight": weight for name, weight in self.kl_weights(step).items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """The state that the next step depends on, as tensors and plain data; every process has to call this.

        Raises:
            DivergenceError: a step or a parameter was not finite.
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

    def _require_moments(self, state: Mapping[int, Mapping[str, Tensor]], steps: int) -> None:
        """Raise InputError unless an optimiser's state fits the parameters: the fused step checks nothing."""
        if steps and not state:
            raise InputError(f"optimiser: expected a state after {steps} steps, found none")
        for number, found in state.items():
            if not 0 <= number < len(self.parameters):
                known = len(self.parameters)
                raise InputError(f"optimiser: expected a state of {known} parameters, found one of number {number}")
            parameter, step = self.parameters[number], torch.zeros((), dtype=torch.float32)
            moments = {"step": step, "exp_avg": parameter, "exp_avg_sq": parameter}
            require_like(found, moments, f"optimiser state of parameter {number}")
            if not 0 <= float(found["step"]) <= steps or (found["exp_avg_sq"] < 0).any():
                least = found["exp_avg_sq"].min()
                raise InputError(
                    f"optimiser state of parameter {number}: expected 0 to {steps} steps and no second moment below 0, "
                    f"found {float(found['step']):g} steps and {least:g}"
                )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state: bit for bit on a CPU with as many processes; an added process draws anew.

        Raises:
            InputError: parameters, or a state of the optimiser, of other shapes or not finite.
        """
        require_like(state["pair"], self.pair.state_dict(), "parameters")
        self._require_moments(state["optimizer"], state["step"])
        self.step, self.waited_seconds = state["step"], state["waited_seconds"]
        self.pair.load_state_dict(state["pair"])
        settings = self.optimizer.state_dict()["param_groups"]  # from the plan, not from the saved state
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": settings})
        self.stepper = self.new_stepper(self.stepper.step)  # a captured graph would use the old state
        if self.processes.rank < len(state["processes"]):
            own = state["processes"][self.processes.rank]
            self.episodes.load_state_dict(own["episodes"])
            restore_random_state(own["random"], self.device)
        else:
            self.episodes.load_order(state["processes"][0]["episodes"])

    def _require_finite(self, of_parameters: bool = False) -> None:
        """Raise a DivergenceError, or an InputError that `_draw` kept, in all processes if it occurred in one."""
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
            terms = elbo_terms(self.pair.model, self.pair.guide, episode)
        cause = "the loss" if self.stepper.step.nonfinite_losses > 0 else "the gradient of the loss"
        where = f"step {number}" if self.check_every == 1 else f"one of the last {self.check_every} steps, to {number}"
        return (
            f"{where}: {cause} is not finite (loss {result.loss.item():.4g}; {describe(terms.mean().as_dict())}); "
            "try a lower --learning-rate"
        )
