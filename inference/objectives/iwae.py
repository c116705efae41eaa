"""Bounds with K particles for each image: the Renyi bound, IWAE (a special case), and IWAE's DReG gradient.

Given the memory the images are independent, so that each image has its own particles and importance weights. The
memory, which an episode's images share, is drawn once, and its density stays outside the logarithm. A memory with a
flat prior has no such terms:

    bound = E_q(M) [ sum_t L_t(M) - ln q(M) + ln p(M) ]
    L_t   = 1/(1 - alpha) ln 1/K sum_k w_tk^(1 - alpha),   w_tk = p(x_t, latents_tk | M) / q(latents_tk)

KL weights (`ScaleSites`) scale the terms of ln w. Encoder and write run once for any K.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.infer.elbo import ELBOModule
from pyro.poutine.util import is_validation_enabled
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor, nn

from inference.objectives.interface import OBJECTIVES, ObjectiveKind
from inference.tracing import PyroProgram, TracedPair, base_distribution, trace_pair
from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import Plate

_IMAGES = "images"  # the plate of an image's own sites
_DEPENDENT = "guide: expected draws of an image that do not depend on one another for dreg, found {}; iwae allows them"


class ImageParticles(Plate):
    """A plate of particles around a whole program that applies only to sites inside the plate "images"."""

    def _process_message(self, msg: Any) -> None:
        if _is_of_an_image(msg):
            super()._process_message(msg)


class RenyiBound(ELBO):
    """The variational Renyi bound of each image (Li & Turner 2016); with alpha = 0, IWAE (Burda et al. 2016).

    The bound decreases with alpha. With alpha = 1 it is the ELBO, the mean of ln w. As K grows, it converges to
    ln p(x|M) for alpha = 0, and exceeds ln p(x|M) for alpha < 0. Draws must be reparametrised.

    Args:
        max_plate_nesting: plate nesting of the model; the particle plate is to the left.
        particles: K, particles of each image.
        alpha: order of the Renyi divergence, any finite number.

    Raises:
        InputError: K below one, or an alpha that is not finite; when run, draws that are not reparametrised.
    """

    def __init__(self, max_plate_nesting: int, particles: int = 1, alpha: float = 0.0) -> None:
        if particles < 1:
            raise InputError(f"particles: expected at least 1, found {particles}")
        if not math.isfinite(alpha):
            raise InputError(f"alpha: expected a finite number, found {alpha}")
        super().__init__(num_particles=particles, max_plate_nesting=max_plate_nesting)
        self.alpha = alpha

    def differentiable_loss(self, model: PyroProgram, guide: PyroProgram, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the images; one draw of the memory, and K of each image's latents."""
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        sites = TracedPair(model_trace, guide_trace).latent_sites()
        joint = _nodes(model_trace, (*model_trace.observation_nodes, *sites))
        posterior = _nodes(guide_trace, sites)
        terms = [(site, _log_prob(site, site["value"])) for site in joint]
        terms += [(site, -self.log_posterior(site)) for site in posterior]
        log_weights: Any = sum(term for site, term in terms if _is_of_an_image(site))  # (K, B, T)
        shared: Any = sum(term.sum() for site, term in terms if not _is_of_an_image(site))
        self.weigh_gradients([site for site in posterior if _is_of_an_image(site)], log_weights.detach())
        return -(self.log_mean(log_weights).sum() + shared)

    def log_posterior(self, site: Any) -> Tensor:
        """Log-density of a draw of the guide, (K, B, T); or (B, 1) at a site that the images share."""
        return _log_prob(site, site["value"])

    def log_mean(self, log_weights: Tensor) -> Tensor:
        """L_t, (B, T), from ln w, (K, B, T)."""
        order = 1 - self.alpha
        mean = log_weights.mean(0)
        if order == 0:
            return mean
        excess = (order * (log_weights - mean)).logsumexp(0) - math.log(len(log_weights))  # small for alpha near 1
        return mean + excess / order

    def weigh_gradients(self, sites: Iterable[Any], log_weights: Tensor) -> None:
        """Reweight the gradients through the guide's draws at the images' sites; here, leave them unchanged."""

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[poutine.Trace, poutine.Trace]:
        traces = trace_pair(self._in_particle_plate(model), self._in_particle_plate(guide), *args, **kwargs)
        sites = _nodes(traces.guide, traces.guide.stochastic_nodes)
        others = {
            site["name"]: type(base_distribution(site["fn"])).__name__ for site in sites if not site["fn"].has_rsample
        }
        if others:
            names, kinds = ", ".join(others), ", ".join(others.values())
            raise InputError(f"guide: expected reparametrised draws at {names}, found {kinds}, without gradients")
        if is_validation_enabled():
            self._check(traces)
        return traces.model, traces.guide

    def _in_particle_plate(self, program: PyroProgram) -> PyroProgram:
        def run(*args: Any, **kwargs: Any) -> object:
            with ImageParticles("particles", self.num_particles, dim=-1 - self.max_plate_nesting):
                return program(*args, **kwargs)

        return run

    def _check(self, traces: TracedPair) -> None:
        """Make the checks of Pyro's own objectives."""
        nesting = self.max_plate_nesting + 1
        check_model_guide_match(traces.model, traces.guide, nesting)
        for trace in (traces.model, traces.guide):
            trace.compute_log_prob()
            for site in _nodes(trace, (*trace.observation_nodes, *trace.stochastic_nodes)):
                check_site_shape(site, nesting)


class DReGBound(RenyiBound):
    """IWAE with the doubly reparametrised gradient (DReG, Tucker et al. 2019), unbiased as IWAE's own.

    w~ is the normalised importance weight. Each path of the gradient of ln w has a factor:

        path                                                          factor
        draws of y and z to the guide's parameters                    w~^2
        draws of y to the memory, by q(y|X, M)                        w~^2
        ln q at a fixed draw (the score term)                         0
        the model's parameters                                        w~
        p(z|M, y) to the memory                                       w~
        ln p(M) - ln q(M) of a random memory, outside of ln w         1, as in an ELBO

    The expectation is that of IWAE's gradient, and the signal-to-noise ratio does not fall as K grows. With K = 1 this
    gradient is "sticking the landing" (Roeder et al. 2017).

    An image's draws must not depend on one another in the guide (`latent_sees_read`): the density of one draw would
    then be differentiated through another (Bauer & Mnih 2021).

    Args:
        max_plate_nesting: plate nesting of the model; the particle plate is to the left.
        particles: K, particles of each image.

    Raises:
        InputError: as `RenyiBound`, or a guide in which an image's draws depend on one another.
    """

    def __init__(self, max_plate_nesting: int, particles: int = 1) -> None:
        super().__init__(max_plate_nesting, particles)

    def __call__(self, model: nn.Module, guide: nn.Module) -> ELBOModule:
        """The loss of a model and its guide."""
        if getattr(guide, "latent_sees_read", False):
            raise InputError(_DEPENDENT.format("q(z | x, M, y)"))
        return super().__call__(model, guide)

    def log_posterior(self, site: Any) -> Tensor:
        """Log-density of a draw; at an image's sites, its gradient passes through the draw only."""
        draw = site["value"]
        if not _is_of_an_image(site):
            return _log_prob(site, draw)
        # A view: for the draw itself, a transform may have cached its argument, and the gradient would bypass the draw.
        path, score = _log_prob(site, draw.view_as(draw)), _log_prob(site, draw.detach())
        return path - score + score.detach()

    def weigh_gradients(self, sites: Iterable[Any], log_weights: Tensor) -> None:
        """Multiply the gradients through the draws by w~; the logarithm of the mean has given the first factor w~.

        Let b be the weight of a site's density in ln w, as set by KL weights. In expectation, the omitted score term is
        b w~ (1 - w~) times the gradient through the draw. Subtracting it from w~ leaves w~ (1 - b (1 - w~)).
        """
        others = 1 - log_weights.softmax(0)  # (K, B, T)
        for site in sites:
            draw = site["value"]
            if draw.requires_grad:
                factor = 1 - scale_and_mask(others, site["scale"], site["mask"])
                shaped = factor.view(*factor.shape, *[1] * (draw.dim() - factor.dim()))
                draw.register_hook(lambda gradient, factor=shaped: gradient * factor)

    def _check(self, traces: TracedPair) -> None:
        super()._check(traces)
        own = [site for site in _nodes(traces.guide, traces.latent_sites()) if _is_of_an_image(site)]
        draws = {site["name"]: site["value"] for site in own if site["value"].requires_grad}
        scores: Any = sum(_log_prob(site, site["value"].detach()).sum() for site in own)
        if draws and scores.requires_grad:
            found = torch.autograd.grad(scores, list(draws.values()), retain_graph=True, allow_unused=True)
            seen = [name for name, gradient in zip(draws, found, strict=True) if gradient is not None]
            if seen:
                raise InputError(_DEPENDENT.format(f"some that depend on {', '.join(seen)}"))


def _nodes(trace: poutine.Trace, names: Iterable[str]) -> list[Any]:
    return [trace.nodes[name] for name in names]


def _is_of_an_image(site: Any) -> bool:
    return any(frame.name == _IMAGES for frame in site["cond_indep_stack"])


def _log_prob(site: Any, value: Tensor) -> Tensor:
    """Log-density of a value at a site, with the site's scale."""
    return scale_and_mask(site["fn"].log_prob(value), site["scale"], site["mask"])


OBJECTIVES["iwae"] = ObjectiveKind(RenyiBound, takes_particles=True)
OBJECTIVES["dreg"] = ObjectiveKind(DReGBound, takes_particles=True, independent_draws=True, like="iwae")
OBJECTIVES["renyi"] = ObjectiveKind(RenyiBound, takes_particles=True, takes_alpha=True, like="iwae")
