"""A model and its guide as one module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Size, nn

from models.memory_model import MemoryGuide, MemoryModel


class Pair(nn.Module):
    """A model and its guide, trained, saved, loaded, copied and moved together.

    A module that both share, such as the linear part of a matrix memory, appears once in `parameters()` and under both
    names in `state_dict()`.

    Args:
        model: p(M, y, z, X).
        guide: q(M, y, z | X) of this model.
    """

    def __init__(self, model: MemoryModel, guide: MemoryGuide) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        model.bind_guide(guide)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.model.parameters()).device

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch to eval mode, in which contents take the configured content steps; restore the mode afterwards."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def sizes(self) -> dict[str, Any]:
        """Image shape (C, H, W), scalars of a memory and number of parameters, for tables of results."""
        return {
            "image_shape": list(self.model.image_shape),
            "memory_scalars": Size(self.model.memory_shape).numel(),
            "parameters": sum(parameter.numel() for parameter in self.parameters()),
        }
