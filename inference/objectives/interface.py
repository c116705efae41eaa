"""The registry of objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO

from inference.objectives.bypass import Bypassed
from inference.tracing import PLATE_NESTING
from kpp_pyro.errors import InputError


@dataclass(frozen=True)
class ObjectiveKind:
    """A registered objective.

    Attributes:
        make: builds the objective from `max_plate_nesting`, and from `particles` and `alpha` where it takes them.
        closed_kls: whether it needs KLs in closed form.
        independent_draws: whether it needs a guide in which an image's draws do not depend on one another.
        takes_particles: whether it takes K draws of each image.
        takes_alpha: whether it has an order alpha.
        capturable: whether a training step can be captured as a CUDA graph.
        like: name of the objective whose preset it takes too, if any.
    """

    make: Callable[..., ELBO]
    closed_kls: bool = False
    independent_draws: bool = False
    takes_particles: bool = False
    takes_alpha: bool = False
    capturable: bool = False
    like: str | None = None


OBJECTIVES: dict[str, ObjectiveKind] = {}
"""Objectives by name."""


def make_objective(
    name: str,
    plate_nesting: int = PLATE_NESTING,
    particles: int = 1,
    alpha: float = 0.0,
    bypass_weight: float = 0.0,
) -> ELBO:
    """Build an objective for one model/guide pair; it caches the pair's plates.

    Args:
        name: key of `OBJECTIVES`.
        plate_nesting: plate nesting of the model.
        particles: K, draws of each image; 1 unless the objective takes particles.
        alpha: order of the Renyi divergence; 0 unless the objective has an order.
        bypass_weight: weight of the loss that bypasses the memory, see `Bypassed`; only for pairs of `models`.

    Raises:
        InputError: particles or an alpha that the objective does not take.
    """
    kind = OBJECTIVES[name]
    options: dict[str, Any] = {}
    if kind.takes_particles:
        options["particles"] = particles
    elif particles != 1:
        raise InputError(
            f"particles: expected 1 with {name}, found {particles}; renyi with alpha 1 is the ELBO of more"
        )
    if kind.takes_alpha:
        options["alpha"] = alpha
    elif alpha != 0:
        raise InputError(f"alpha: expected 0 with {name}, found {alpha}; it is renyi's")
    bound = kind.make(max_plate_nesting=plate_nesting, **options)
    return Bypassed(bound, bypass_weight) if bypass_weight else bound
