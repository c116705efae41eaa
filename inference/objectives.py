"""Objectives, and the schedules of the KL weights that keep a memory in use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBOModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from inference.image_bounds import DReGBound, RenyiBound
from inference.traces import amortized, site_value, traced
from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import TensorTrace_ELBO, unrecorded_parameters

KLWeights = Mapping[str, float] | Mapping[str, Tensor]  # by the name of the site
Loss = Callable[[Tensor, KLWeights], Tensor]  # minus the bound, of episodes (B, T, C, H, W), summed over them
PLATE_NESTING = 2  # "episodes" at dim -2, "images" at dim -1


OBJECTIVES: dict[str, type[ELBO]] = {
    "trace": TensorTrace_ELBO,
    "mean_field": TraceMeanField_ELBO,
    "iwae": RenyiBound,
    "dreg": DReGBound,
    "renyi": RenyiBound,
}


def make_objective(name: str, plate_nesting: int = PLATE_NESTING, particles: int = 1, alpha: float = 0.0) -> ELBO:
    """Return a new objective; it belongs to one model/guide pair, as it caches their plates.

    Args:
        name: the ELBO from draws ("trace") or with closed KLs ("mean_field"), or a bound in `image_bounds.py`.
        plate_nesting: of the model.
        particles: K, of the bounds of each image.
        alpha: of "renyi".

    Raises:
        InputError: particles or an alpha that the objective cannot use.
    """
    kind = OBJECTIVES[name]
    options: dict[str, Any] = {}
    if issubclass(kind, RenyiBound):
        options["particles"] = particles
    elif particles != 1:
        raise InputError(
            f"particles: expected 1 with {name}, found {particles}; renyi with alpha 1 is the ELBO of more"
        )
    if name == "renyi":
        options["alpha"] = alpha
    elif alpha != 0:
        raise InputError(f"alpha: expected 0 with {name}, found {alpha}; it is renyi's")
    return kind(max_plate_nesting=plate_nesting, **options)


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


class WithLeftOut(nn.Module):
    """A pair's loss of images that were written, plus that of the last of an episode, which are left out of the memory.

    Args:
        pair: an objective's model and guide.
        left_out: images of an episode that are not written.
    """

    def __init__(self, pair: ELBOModule, left_out: int) -> None:
        super().__init__()
        self.pair, self.left_out = pair, left_out

    def forward(self, episode: Tensor) -> Tensor:
        """Loss of an episode (B, T + left out, C, H, W); what is written learns from both."""
        written, cues = episode[:, : -self.left_out], episode[:, -self.left_out :]
        model, guide = self.pair.model, self.pair.guide
        of_written = amortized(guide, written)
        memory = site_value(traced(of_written, written), "memory")
        objective: Any = self.pair.elbo
        of_cues = objective.differentiable_loss(model, guide, cues, memory)
        return objective.differentiable_loss(model, of_written, written) + of_cues


def annealed(objective: nn.Module) -> Loss:
    """The loss of a pair's objective, as a function of the episodes and of the weights of its sites' KLs."""

    def loss(episode: Tensor, kl_weights: KLWeights) -> Tensor:
        with unrecorded_parameters(), ScaleSites(kl_weights):
            return objective(episode)

    return loss
