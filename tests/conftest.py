from __future__ import annotations

from collections.abc import Iterator

import pyro
import pytest
import torch

torch.set_num_threads(1)  # small tensors gain nothing from more, and sums come out the same in every process


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """Every test: a fixed seed, Pyro's checks on."""
    torch.manual_seed(0)
    with pyro.validation_enabled(True):
        yield
