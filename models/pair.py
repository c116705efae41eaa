"""A model and its guide as one module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Size, nn

from models.memory_model import MemoryGuide, MemoryModel


class Pair(nn.Module):
    """A model and its guide: what is trained, saved and loaded, copied and moved together.

    What the two share, such as the linear part of a matrix memory, is one module in both: it is among the parameters
    once, and in the state under both names.

    Args:
        model: p(M, y, z, x).
        guide: q(M, y, z | x), of this model.
    """

    def __init__(self, model: MemoryModel, guide: MemoryGuide) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        model.bind_guide(guide)

    @property
    def device(self) -> torch.device:
        """Device that both run on."""
        return next(self.model.parameters()).device

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Interrupt training for a look: contents are refined where that is asked for, see `LatentAscent`."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def sizes(self) -> dict[str, Any]:
        """What any table of results has to state."""
        return {
            "image_shape": list(self.model.image_shape),
            "memory_scalars": Size(self.model.memory_shape).numel(),
            "parameters": sum(parameter.numel() for parameter in self.parameters()),
        }
