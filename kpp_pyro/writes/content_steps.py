"""Contents that are improved before they are written: semi-amortised inference (Kim et al. 2018, arXiv:1802.02550)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

_MOMENTUM, _SECOND_MOMENT = 0.8, 0.99  # of Adam, for tens of steps rather than thousands


@dataclass(frozen=True)
class LatentAscent:
    """Gradient ascent of every image's latent on ln p(x | z), from where the encoder puts it.

        z_0 = f_enc(x),   z_{i+1} = z_i + Adam(d ln p(x | z_i) / dz),   i < steps

    The encoder gets its image about right; what it leaves to be said of this one image, its own gradient knows. A step
    is as long as `step_size` times the root mean square of the episode's latents, whatever their scale.

    The gradient of what follows passes to z_0 as if the steps had added a constant, which needs no second derivative.

    Attributes:
        likelihood: p(x | z), latents (B, T, D) to event (C, H, W).
        steps: of every image.
        step_size: relative.
    """

    likelihood: Callable[[Tensor], Distribution]
    steps: int
    step_size: float = 0.03

    def __call__(self, latent: Tensor, episode: Tensor) -> Tensor:
        """Improve latents (B, T, D) of an episode (B, T, C, H, W)."""
        refined = latent.detach()
        length = self.step_size * refined.square().mean((-2, -1), keepdim=True).sqrt()
        first = second = torch.zeros_like(refined)
        smallest = torch.finfo(second.dtype).tiny ** 0.5  # gradients below have no square
        for step in range(1, self.steps + 1):
            _, gradient = _ascent(self.likelihood, refined, episode)
            first = torch.lerp(gradient, first, _MOMENTUM)
            second = torch.lerp(gradient.square(), second, _SECOND_MOMENT)
            scale = (second / (1 - _SECOND_MOMENT**step)).sqrt().clamp(min=smallest)
            refined = refined + length * first / (1 - _MOMENTUM**step) / scale
        return latent + (refined - latent.detach())


@dataclass(frozen=True)
class SignSearch:
    """The same for latents that are signs: in every step one of each image's is turned over, if that helps.

    Of those that have not been tried since the last success it is the one that promises most, by the gradient: turning
    z_i over changes ln p(x | z) by about -2 z_i d ln p / dz_i. A step that does not help is taken back.

    Attributes:
        likelihood: p(x | z), latents (B, T, D) to event (C, H, W).
        steps: of every image.
    """

    likelihood: Callable[[Tensor], Distribution]
    steps: int

    def __call__(self, latent: Tensor, episode: Tensor) -> Tensor:
        """Improve signs (B, T, D) of an episode (B, T, C, H, W)."""
        signs = latent.detach()
        fit, gradient = _ascent(self.likelihood, signs, episode)
        tried = torch.zeros_like(signs, dtype=torch.bool)
        for _ in range(self.steps):
            promise = (-signs * gradient).masked_fill(tried, -torch.inf)
            turned = torch.zeros_like(tried).scatter(-1, promise.argmax(-1, keepdim=True), True)
            proposed = torch.where(turned, -signs, signs)
            its_fit, its_gradient = _ascent(self.likelihood, proposed, episode)
            better = (its_fit > fit).unsqueeze(-1)
            signs, gradient = torch.where(better, proposed, signs), torch.where(better, its_gradient, gradient)
            fit, tried = torch.maximum(fit, its_fit), (tried | turned) & ~better
        return latent + (signs - latent.detach())


def _ascent(likelihood: Callable[[Tensor], Distribution], latent: Tensor, episode: Tensor) -> tuple[Tensor, Tensor]:
    """ln p(x | z) (B, T) and its gradient (B, T, D); grey images are no Bernoulli's, but have a cross-entropy too."""
    with torch.enable_grad(), pyro.validation_enabled(False):
        latent = latent.detach().requires_grad_()
        fit = likelihood(latent).log_prob(episode)
        return fit.detach(), torch.autograd.grad(fit.sum(), latent)[0]
