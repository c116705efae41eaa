"""The loss of written images plus the loss of left-out images."""

from __future__ import annotations

from typing import Any

from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn

from inference.tracing import amortized, site_value, traced


class WithLeftOut(nn.Module):
    """The loss of an episode's written images, plus the loss of its last images as cues, which are left out.

    Args:
        loss: an objective, bound to a model and its guide.
        left_out: number of images of an episode that are not written.
    """

    def __init__(self, loss: ELBOModule, left_out: int) -> None:
        super().__init__()
        self.loss, self.left_out = loss, left_out

    def forward(self, episode: Tensor) -> Tensor:
        """Loss of an episode (B, T + left_out, C, H, W); the gradients of both terms reach the write."""
        written, cues = episode[:, : -self.left_out], episode[:, -self.left_out :]
        model, guide = self.loss.model, self.loss.guide
        posterior = amortized(guide, written)
        memory = site_value(traced(posterior, written), "memory")
        objective: Any = self.loss.elbo
        loss_of_cues = objective.differentiable_loss(model, guide, cues, memory)
        return objective.differentiable_loss(model, posterior, written) + loss_of_cues
