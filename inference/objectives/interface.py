"""What is registered of objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO

from inference.tracing import PLATE_NESTING
from kpp_pyro.errors import InputError


@dataclass(frozen=True)
class ObjectiveKind:
    """An objective, as it is registered.

    Attributes:
        make: the objective, of `max_plate_nesting`, `particles` if it takes some, and `alpha` if it has an order.
        closed_kls: whether it needs KLs in closed form.
        independent_draws: whether the draws of an image may not depend on one another in the guide.
        takes_particles: whether it is of K draws of each image.
        takes_alpha: whether it has an order.
        capturable: whether a step of it can be captured as a CUDA graph.
    """

    make: Callable[..., ELBO]
    closed_kls: bool = False
    independent_draws: bool = False
    takes_particles: bool = False
    takes_alpha: bool = False
    capturable: bool = False


OBJECTIVES: dict[str, ObjectiveKind] = {}
"""Objectives by name; the file of each one registers it."""


def make_objective(name: str, plate_nesting: int = PLATE_NESTING, particles: int = 1, alpha: float = 0.0) -> ELBO:
    """Return a new objective; it belongs to one model/guide pair, as it caches their plates.

    Args:
        name: of `OBJECTIVES`.
        plate_nesting: of the model.
        particles: K, draws of each image, of an objective that takes some.
        alpha: order, of an objective that has one.

    Raises:
        InputError: particles or an alpha that the objective cannot use.
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
    return kind.make(max_plate_nesting=plate_nesting, **options)
