"""Running a guide and its model together: the one place that knows how the two are traced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

PyroProgram = Callable[..., object]  # a Pyro model or guide, called as (episode, memory=None)


@dataclass(frozen=True)
class TracedPair:
    """A run of the guide, and of the model replayed with the guide's values."""

    model: poutine.Trace
    guide: poutine.Trace

    def value(self, site: str) -> Tensor:
        """Value of a site, latent or observed."""
        return site_value(self.model, site)

    def mean(self, site: str) -> Tensor:
        """Mean of a site's distribution under the model."""
        return site_mean(self.model, site)


def trace_pair(model: PyroProgram, guide: PyroProgram, episode: Tensor, memory: Tensor | None = None) -> TracedPair:
    """Run the guide on an episode, and the model with the values that the guide drew."""
    guide_trace = poutine.trace(guide).get_trace(episode, memory)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(episode, memory)
    return TracedPair(prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace))


def site_value(trace: poutine.Trace, site: str) -> Tensor:
    """Value of a site of a trace."""
    node: dict[str, Any] = trace.nodes[site]  # type: ignore[assignment]
    return node["value"]


def site_mean(trace: poutine.Trace, site: str) -> Tensor:
    """Mean of the distribution of a site of a trace."""
    node: dict[str, Any] = trace.nodes[site]  # type: ignore[assignment]
    return node["fn"].mean
