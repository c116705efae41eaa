from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.experiments.running import without_figures


@pytest.fixture
def no_figures() -> Iterator[None]:
    with without_figures():
        yield
