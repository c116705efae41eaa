"""Objectives, and the schedules of the KL weights that keep a memory in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pyro import poutine
from pyro.distributions import Delta
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import is_validation_enabled, prune_subsample_sites, site_is_subsample
from torch import Tensor, nn

from inference.traces import PyroProgram

KLWeights = Mapping[str, float] | Mapping[str, Tensor]  # by the name of the site
Loss = Callable[[Tensor, KLWeights], Tensor]  # -ELBO of episodes (B, T, C, H, W), summed over them
ObjectiveName = Literal["trace", "mean_field"]
PLATE_NESTING = 2  # "episodes" at dim -2, "images" at dim -1


class TensorTrace_ELBO(Trace_ELBO):  # noqa: N801, as in Pyro
    """`Trace_ELBO`, in value and gradient, without ever waiting for the device.

    `Trace_ELBO` reads the value of every site's log-probability, which makes a GPU's queue run dry and cannot be
    captured in a CUDA graph, and prepares terms for sites that are not reparametrised, whether or not there are any.
    With validation on, and for several particles, it is `Trace_ELBO`.
    """

    def differentiable_loss(self, model: PyroProgram, guide: PyroProgram, *args: Any, **kwargs: Any) -> Tensor:
        """Return -ELBO, summed over the episodes, differentiable: of one draw of the guide."""
        if is_validation_enabled() or self.num_particles > 1:
            return super().differentiable_loss(model, guide, *args, **kwargs)
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        drawn: list[Any] = [site for name, site in guide_trace.nodes.items() if _has_density(name, site)]
        if all(site["fn"].has_rsample for site in drawn):
            for site in drawn:
                if isinstance(site["fn"], Delta) and site["mask"] is None:  # it need not look for its own point
                    site["log_prob_sum"] = (site["fn"].log_density * site["scale"]).sum()
            loss: Any = guide_trace.log_prob_sum(_has_density) - model_trace.log_prob_sum(_has_density)
            return loss
        return self._score_function_loss(prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace))

    def _score_function_loss(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
        """Trace_ELBO's own estimator for draws that carry no gradient."""
        model_trace.compute_log_prob()
        guide_trace.compute_score_parts()
        loss, surrogate = self._differentiable_loss_particle(model_trace, guide_trace)
        return loss + (surrogate - surrogate.detach())


def _has_density(_: str, site: Any) -> bool:
    """Whether a node of a trace is a random variable, rather than a plate, a parameter or an argument."""
    return site["type"] == "sample" and not site_is_subsample(site)


_OBJECTIVES: dict[ObjectiveName, type[ELBO]] = {"trace": TensorTrace_ELBO, "mean_field": TraceMeanField_ELBO}


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

    def __init__(self, weights: KLWeights) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.weights:
            msg["scale"] = msg["scale"] * self.weights[msg["name"]]


def annealed(objective: nn.Module) -> Loss:
    """The loss of a pair's objective, as a function of the episodes and of the weights of its sites' KLs."""

    def loss(episode: Tensor, kl_weights: KLWeights) -> Tensor:
        with ScaleSites(kl_weights):
            return objective(episode)

    return loss
