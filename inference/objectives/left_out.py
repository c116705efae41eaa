"""The loss of images that were left out of the memory, beside that of those that were written."""

from __future__ import annotations

from typing import Any

from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn

from inference.tracing import amortized, site_value, traced


class WithLeftOut(nn.Module):
    """A pair's loss of images that were written, plus that of the last of an episode, which are left out of the memory.

    Args:
        pair: an objective's model and guide.
        left_out: images of an episode that are not written.
    """

    def __init__(self, pair: ELBOModule, left_out: int) -> None:
        super().__init__()
        self.pair, self.left_out = pair, left_out

    def forward(self, episode: Tensor) -> Tensor:
        """Loss of an episode (B, T + left out, C, H, W); what is written learns from both."""
        written, cues = episode[:, : -self.left_out], episode[:, -self.left_out :]
        model, guide = self.pair.model, self.pair.guide
        of_written = amortized(guide, written)
        memory = site_value(traced(of_written, written), "memory")
        objective: Any = self.pair.elbo
        of_cues = objective.differentiable_loss(model, guide, cues, memory)
        return objective.differentiable_loss(model, of_written, written) + of_cues
