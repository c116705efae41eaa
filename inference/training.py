"""Stochastic variational inference: one step, its state, and nothing about which model it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from inference.errors import DivergenceError
from inference.evaluation import describe, elbo_terms
from inference.objectives import KLSchedule, ScaleSites
from inference.randomness import random_state, restore_random_state

_VALIDATED_STEPS = 1  # Pyro's checks of shapes and supports cost time, and catch what they can in the first step


class EpisodeSource(Protocol):
    """Where training episodes come from."""

    def sample(self, num_episodes: int) -> Tensor:
        """Draw episodes (B, T, C, H, W)."""

    def state_dict(self) -> dict[str, Any]:
        """Random state, as tensors and plain data."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    Attributes:
        steps: optimiser steps in all; the learning rate falls to zero over them.
        episodes_per_step: B.
        learning_rate: of Adam, reached after `warmup_steps`, then falling by a cosine.
        warmup_steps: steps of linear warm-up.
        weight_decay: decoupled (AdamW).
        gradient_norm: gradients are clipped to this global norm.
        kl_schedules: schedule of the KL weight of each site, by the site's name.
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


class Trainer:
    """Trains a model/guide pair; `state_dict` holds all that the next step depends on."""

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        objective: ELBO,
        episodes: EpisodeSource,
        plan: TrainingPlan,
    ) -> None:
        self.model, self.guide, self.episodes, self.plan = model, guide, episodes, plan
        self.step = 0
        self.objective = objective(model, guide)
        self.parameters = list(self.objective.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
        )

    def train_step(self) -> dict[str, float]:
        """Take one step.

        Returns:
            Its quantities by full name; the ELBO is the annealed one, with this step's KL weights.

        Raises:
            DivergenceError: the loss or its gradient is not finite; no parameter has been changed by it.
        """
        episode = self.episodes.sample(self.plan.episodes_per_step)
        weights = {name: schedule.weight(self.step) for name, schedule in self.plan.kl_schedules.items()}
        learning_rate = self.plan.learning_rate_at(self.step)
        with pyro.validation_enabled(self.step < _VALIDATED_STEPS), ScaleSites(weights):
            loss = self.objective(episode) / (episode.shape[0] * episode.shape[1])
        self.optimizer.zero_grad(set_to_none=True)
        if loss.isfinite():
            loss.backward()
            gradient_norm = nn.utils.clip_grad_norm_(self.parameters, self.plan.gradient_norm)
        if not loss.isfinite() or not gradient_norm.isfinite():
            raise DivergenceError(self._diagnosis(episode, loss))
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.step += 1
        return {
            "annealed_elbo_nats_per_image": -loss.item(),
            "gradient_norm": gradient_norm.item(),
            "learning_rate": learning_rate,
            **{f"kl_{name}_weight": weight for name, weight in weights.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on, as tensors and plain data.

        Raises:
            DivergenceError: a parameter is not finite, so that no state is worth keeping.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            raise DivergenceError(f"step {self.step}: a parameter is not finite; try a lower --learning-rate")
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "guide": self.guide.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "episodes": self.episodes.state_dict(),
            "random": random_state(self.parameters[0].device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state, bit for bit on a CPU."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.guide.load_state_dict(state["guide"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.episodes.load_state_dict(state["episodes"])
        restore_random_state(state["random"], self.parameters[0].device)

    def _diagnosis(self, episode: Tensor, loss: Tensor) -> str:
        with pyro.validation_enabled(False):
            listed = describe(elbo_terms(self.model, self.guide, episode).mean().as_dict())
        culprit = "the loss" if not loss.isfinite() else "the gradient of the loss"
        return (
            f"step {self.step + 1}: {culprit} is not finite (loss {loss.item():.4g}; {listed}); "
            "try a lower --learning-rate"
        )
