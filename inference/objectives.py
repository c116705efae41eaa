"""Objectives, and the schedules of the KL weights that keep a memory in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger

ObjectiveName = Literal["trace", "mean_field"]
PLATE_NESTING = 2  # "episodes" at dim -2, "images" at dim -1
_OBJECTIVES: dict[ObjectiveName, type[ELBO]] = {"trace": Trace_ELBO, "mean_field": TraceMeanField_ELBO}


def make_objective(name: ObjectiveName, plate_nesting: int = PLATE_NESTING) -> ELBO:
    """Return a new objective; it belongs to one model/guide pair, as it caches their plates."""
    return _OBJECTIVES[name](max_plate_nesting=plate_nesting)


@dataclass(frozen=True)
class KLSchedule:
    """Weight of one site's KL: `start` up to `begin_step`, then linear to 1 over `ramp_steps`."""

    start: float = 1.0
    begin_step: int = 0
    ramp_steps: int = 0

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

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.weights:
            msg["scale"] = msg["scale"] * self.weights[msg["name"]]
