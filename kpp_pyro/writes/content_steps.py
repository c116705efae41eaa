"""Steps that improve latents through the decoder, before contents are written.

`LatentAscent` and `SignSearch`, the content steps: semi-amortised inference (Kim et al. 2018, arXiv:1802.02550).
`LearnedAscent`, the encoder's steps: iterative amortised inference (Marino, Yue & Mandt 2018, arXiv:1807.09356).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.memory.sign_code import SignCode

_MOMENTUM, _SECOND_MOMENT = 0.8, 0.99  # beta_1 and beta_2 of Adam, for tens of steps


@dataclass(frozen=True)
class LatentAscent:
    """Gradient ascent of each image's latent on ln p(x | z), from the encoder's latent.

        z_0 = f_enc(x),   z_{i+1} = z_i + Adam(d ln p(x | z_i) / dz),   i < steps

    The steps reduce the error that the encoder makes for the individual image. Adam's learning rate is `step_size`
    times the root mean square of the episode's latents. The gradient of later computations passes to z_0 unchanged:
    the sum of the steps counts as a constant, so that no second derivatives are needed.

    Attributes:
        likelihood: p(x | z), from latents (B, T, D) to event shape (C, H, W).
        steps: number of steps.
        step_size: learning rate relative to the root mean square of the latents.
    """

    likelihood: Callable[[Tensor], Distribution]
    steps: int
    step_size: float = 0.03

    def __call__(self, latent: Tensor, episode: Tensor) -> Tensor:
        """Improve latents (B, T, D) of an episode (B, T, C, H, W)."""
        improved = latent.detach()
        rate = self.step_size * _root_mean_square(improved)
        first = second = torch.zeros_like(improved)
        smallest = torch.finfo(second.dtype).tiny ** 0.5  # the squares of smaller gradients underflow
        for step in range(1, self.steps + 1):
            _, gradient = _fit_and_gradient(self.likelihood, improved, episode)
            first = torch.lerp(gradient, first, _MOMENTUM)
            second = torch.lerp(gradient.square(), second, _SECOND_MOMENT)
            scale = (second / (1 - _SECOND_MOMENT**step)).sqrt().clamp(min=smallest)
            improved = improved + rate * first / (1 - _MOMENTUM**step) / scale
        return latent + (improved - latent.detach())


@dataclass(frozen=True)
class SignSearch:
    """Greedy search for latents of a sign code: each step moves one latent by one level if ln p(x | z) increases.

    A move of z_i by d changes ln p(x | z) by about d times d ln p / dz_i. A step makes the move with the largest
    predicted increase, among those that were not tried since the last successful step. A move that decreases
    ln p(x | z) is undone. With two levels, a move flips a sign.

    Attributes:
        likelihood: p(x | z), from latents (B, T, D) to event shape (C, H, W).
        steps: number of steps.
        code: the sign code.
    """

    likelihood: Callable[[Tensor], Distribution]
    steps: int
    code: SignCode

    def __call__(self, latent: Tensor, episode: Tensor) -> Tensor:
        """Improve latents (B, T, D) of an episode (B, T, C, H, W)."""
        found = latent.detach()
        fit, gradient = _fit_and_gradient(self.likelihood, found, episode)
        moves = self.code.spacing * torch.stack([torch.ones_like(found), -torch.ones_like(found)], -2)  # (B, T, 2, D)
        tried = torch.zeros_like(moves, dtype=torch.bool)
        for _ in range(self.steps):
            beyond = (found.unsqueeze(-2) + moves).abs() > 1 + self.code.spacing / 2
            increase = (moves * gradient.unsqueeze(-2)).masked_fill(tried | beyond, -torch.inf).flatten(-2)
            made = torch.zeros_like(increase, dtype=torch.bool).scatter(-1, increase.argmax(-1, keepdim=True), True)
            made = made.unflatten(-1, moves.shape[-2:])
            proposed = self.code.round(found + torch.where(made, moves, 0.0).sum(-2))
            new_fit, new_gradient = _fit_and_gradient(self.likelihood, proposed, episode)
            better = (new_fit > fit).unsqueeze(-1)
            found, gradient = torch.where(better, proposed, found), torch.where(better, new_gradient, gradient)
            fit, tried = torch.maximum(fit, new_fit), (tried | made) & ~better.unsqueeze(-1)
        return latent + (found - latent.detach())


class LearnedAscent(nn.Module):
    """Steps of a learned ascent of each image's latent on ln p(x | z); each step is a network of its own.

        z_{i+1} = z_i + s W_i gelu(V_i [z_i / s, g_i, features]) + s d_i g_i,      i < steps

    g_i is the gradient of ln p(x | z_i), over its root mean square in the episode; s is the root mean square of the
    encoder's latents. W_i and d_i start at zero. The gradient of the loss reaches the networks and the encoder; g_i
    and s count as constants, so that no second derivatives are needed.

    With a sign code the steps move logits a_i in place of z_i, g_i is the gradient at the levels z_i = code.of(a_i),
    and the levels of the last logits are the result. A logit says how certain its level is. So several steps together
    can move a latent by a level, where one step could not.

    Args:
        likelihood: p(x | z), from latents (B, T, D) to event shape (C, H, W).
        steps: number of steps.
        latent_size: D.
        encoding_size: F, the size of the features.
        width: number of hidden units of a step.
        code: of latents that have levels; None for any numbers.
    """

    def __init__(
        self,
        likelihood: Callable[[Tensor], Distribution],
        steps: int,
        latent_size: int,
        encoding_size: int,
        width: int,
        code: SignCode | None = None,
    ) -> None:
        super().__init__()
        self.likelihood, self.code = likelihood, code
        self.stems = nn.ModuleList(nn.Linear(2 * latent_size + encoding_size, width) for _ in range(steps))
        self.heads = nn.ModuleList(nn.Linear(width, latent_size) for _ in range(steps))
        self.rates = nn.Parameter(torch.zeros(steps, latent_size))
        for head in self.heads:
            for parameter in head.parameters():
                nn.init.zeros_(parameter)

    def forward(self, latent: Tensor, episode: Tensor, features: Tensor) -> Tensor:
        """Improve latents (B, T, D), or logits, of an episode (B, T, C, H, W) with features (B, T, F)."""
        smallest = torch.finfo(latent.dtype).tiny
        scale = _root_mean_square(latent.detach()).clamp(min=smallest)
        for stem, head, rate in zip(self.stems, self.heads, self.rates, strict=True):
            _, gradient = _fit_and_gradient(self.likelihood, self._levels(latent), episode)
            gradient = gradient / _root_mean_square(gradient).clamp(min=smallest)
            inputs = torch.cat([latent / scale, gradient, features], -1)
            latent = latent + scale * (head(F.gelu(stem(inputs))) + rate * gradient)
        return self._levels(latent)

    def _levels(self, latent: Tensor) -> Tensor:
        return self.code.of(latent) if self.code else latent


def _root_mean_square(values: Tensor) -> Tensor:
    """Of all numbers of an episode, (B, 1, 1), of (B, T, D)."""
    return values.square().mean((-2, -1), keepdim=True).sqrt()


def _fit_and_gradient(
    likelihood: Callable[[Tensor], Distribution], latent: Tensor, episode: Tensor
) -> tuple[Tensor, Tensor]:
    """ln p(x | z), (B, T), and its gradient, (B, T, D); without validation, since images may be grey."""
    with torch.enable_grad(), pyro.validation_enabled(False):
        latent = latent.detach().requires_grad_()
        fit = likelihood(latent).log_prob(episode)
        return fit.detach(), torch.autograd.grad(fit.sum(), latent)[0]
