"""Families of posteriors that a configuration may name, for keys and for latents."""

from __future__ import annotations

from kpp_pyro.posteriors.families import FlowPosterior, LowRankPosterior, MeanFieldPosterior
from kpp_pyro.posteriors.interface import Posterior

POSTERIORS: dict[str, type[Posterior]] = {
    "mean_field": MeanFieldPosterior,
    "low_rank": LowRankPosterior,
    "flow": FlowPosterior,
}
