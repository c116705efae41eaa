"""Bounds of K particles of every image, to train with: Renyi's, of which IWAE is one, and IWAE's better gradient.

Given the memory the images are independent, so that each has particles and weights of its own. What an episode's images
share, the memory, is drawn once and stays outside the logarithm; it has no density where its prior is flat:

    bound = E_q(M) [ sum_t L_t(M) - ln q(M) + ln p(M) ]
    L_t   = 1/(1 - alpha) ln 1/K sum_k w_tk^(1 - alpha),   w_tk = p(x_t, latents_tk | M) / q(latents_tk)

KL weights (`ScaleSites`) scale the terms of ln w. Encoder and write run once, whatever K is.
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

_IMAGES = "images"  # the plate of what each image has of its own
_DEPENDENT = "guide: expected draws of an image that do not depend on one another for dreg, found {}; iwae allows it"


class ImageParticles(Plate):
    """A plate of particles that holds only what is inside the plate "images", though it is around the whole program."""

    def _process_message(self, msg: Any) -> None:
        if _is_of_an_image(msg):
            super()._process_message(msg)


class RenyiBound(ELBO):
    """The variational Renyi bound of each image (Li & Turner 2016); with alpha = 0, IWAE (Burda et al. 2016).

    It falls with alpha. As K grows, it goes to ln p(x|M) at 0, and above that for alpha below 0; at 1 it is the ELBO,
    the mean of ln w. Draws have to be reparametrised.

    Args:
        max_plate_nesting: of the model; the particles are left of that.
        particles: K, of each image.
        alpha: order of the divergence, any number.

    Raises:
        InputError: K below one, or an alpha that is not finite; when run, draws that carry no gradient.
    """

    def __init__(self, max_plate_nesting: int, particles: int = 1, alpha: float = 0.0) -> None:
        if particles < 1:
            raise InputError(f"particles: expected at least 1, found {particles}")
        if not math.isfinite(alpha):
            raise InputError(f"alpha: expected a finite number, found {alpha}")
        super().__init__(num_particles=particles, max_plate_nesting=max_plate_nesting)
        self.alpha = alpha

    def differentiable_loss(self, model: PyroProgram, guide: PyroProgram, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the images, with a draw of the memory and K of every image's latents."""
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        pair = TracedPair(model_trace, guide_trace)
        sites = pair.latent_sites()
        joint = _nodes(pair.model, (*pair.model.observation_nodes, *sites))
        posterior = _nodes(pair.guide, sites)
        terms = [(site, _log_prob(site, site["value"])) for site in joint]
        terms += [(site, -self.log_posterior(site)) for site in posterior]
        log_weights: Any = sum(term for site, term in terms if _is_of_an_image(site))  # (K, B, T)
        shared: Any = sum(term.sum() for site, term in terms if not _is_of_an_image(site))
        self.weigh_gradients([site for site in posterior if _is_of_an_image(site)], log_weights.detach())
        return -(self.log_mean(log_weights).sum() + shared)

    def log_posterior(self, site: Any) -> Tensor:
        """Log-density of a draw of the guide, (K, B, T), or (B, 1) of one that the images share."""
        return _log_prob(site, site["value"])

    def log_mean(self, log_weights: Tensor) -> Tensor:
        """L_t (B, T) of ln w (K, B, T)."""
        order = 1 - self.alpha
        mean = log_weights.mean(0)
        if order == 0:
            return mean
        beyond = (order * (log_weights - mean)).logsumexp(0) - math.log(len(log_weights))  # small where alpha is near 1
        return mean + beyond / order

    def weigh_gradients(self, sites: Iterable[Any], log_weights: Tensor) -> None:
        """Change how much of the gradient passes the guide's draws at the images' sites: not at all."""

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[poutine.Trace, poutine.Trace]:
        pair = trace_pair(self._of_particles(model), self._of_particles(guide), *args, **kwargs)
        drawn = _nodes(pair.guide, pair.guide.stochastic_nodes)
        others = {
            site["name"]: type(base_distribution(site["fn"])).__name__ for site in drawn if not site["fn"].has_rsample
        }
        if others:
            names, kinds = ", ".join(others), ", ".join(others.values())
            raise InputError(f"guide: expected reparametrised draws at {names}, found {kinds}, whose carry no gradient")
        if is_validation_enabled():
            self._check(pair)
        return pair.model, pair.guide

    def _of_particles(self, program: PyroProgram) -> PyroProgram:
        def run(*args: Any, **kwargs: Any) -> object:
            with ImageParticles("particles", self.num_particles, dim=-1 - self.max_plate_nesting):
                return program(*args, **kwargs)

        return run

    def _check(self, pair: TracedPair) -> None:
        """Check what Pyro's objectives do."""
        nesting = self.max_plate_nesting + 1
        check_model_guide_match(pair.model, pair.guide, nesting)
        for trace in (pair.model, pair.guide):
            trace.compute_log_prob()
            for site in _nodes(trace, (*trace.observation_nodes, *trace.stochastic_nodes)):
                check_site_shape(site, nesting)


class DReGBound(RenyiBound):
    """IWAE with the doubly reparametrised gradient (Tucker et al. 2019), whose expectation is the same.

    The gradient of ln w with respect to a draw is weighted by the square of the normalised weight w~, and what reaches
    the guide's parameters through its density alone is left out: their mean is the same, and the signal no longer
    drowns in noise as K grows. With K = 1 that is "sticking the landing" (Roeder et al. 2017).

    Everything else has plain weights: the model's parameters, and a memory, which is no draw of an image. To the images
    it is what a parameter of the model is; where q(y|X, M) looks at it, it is one of the guide as well, and what passes
    from it through the draws has squared weights. If it is drawn, its own term is that of an ELBO.

    The draws of an image must not depend on one another in the guide (`latent_sees_read`): the density of one would
    then be differentiated through another (Bauer & Mnih 2021).

    Raises:
        InputError: as `RenyiBound`, or a guide whose draws depend on one another.
    """

    def __init__(self, max_plate_nesting: int, particles: int = 1) -> None:
        super().__init__(max_plate_nesting, particles)

    def __call__(self, model: nn.Module, guide: nn.Module) -> ELBOModule:
        """Return the loss of a pair."""
        if getattr(guide, "latent_sees_read", False):
            raise InputError(_DEPENDENT.format("q(z | x, M, y)"))
        return super().__call__(model, guide)

    def log_posterior(self, site: Any) -> Tensor:
        """Log-density of a draw; of an image's, with the gradient that goes through the draw alone."""
        draw = site["value"]
        if not _is_of_an_image(site):
            return _log_prob(site, draw)
        # As a new tensor: for the draw itself, a transform may know what it was made from, and go round it.
        path, score = _log_prob(site, draw.view_as(draw)), _log_prob(site, draw.detach())
        return path - score + score.detach()

    def weigh_gradients(self, sites: Iterable[Any], log_weights: Tensor) -> None:
        """Give the gradients that pass the draws the other factor w~; the logarithm of the mean has given the first.

        Where the density of a site has the weight b in ln w, as KL weights give it, b w~ (1 - w~) is what its score
        comes to, so that the factor is 1 - b (1 - w~).
        """
        others = 1 - log_weights.softmax(0)  # (K, B, T)
        for site in sites:
            draw = site["value"]
            if draw.requires_grad:
                factor = 1 - scale_and_mask(others, site["scale"], site["mask"])
                shaped = factor.view(*factor.shape, *[1] * (draw.dim() - factor.dim()))
                draw.register_hook(lambda gradient, factor=shaped: gradient * factor)

    def _check(self, pair: TracedPair) -> None:
        super()._check(pair)
        own = [site for site in _nodes(pair.guide, pair.latent_sites()) if _is_of_an_image(site)]
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
OBJECTIVES["dreg"] = ObjectiveKind(DReGBound, takes_particles=True, independent_draws=True)
OBJECTIVES["renyi"] = ObjectiveKind(RenyiBound, takes_particles=True, takes_alpha=True)
