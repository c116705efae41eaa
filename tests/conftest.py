from __future__ import annotations

import gc
from collections.abc import Iterator

import pyro
import pytest
import torch

torch.set_num_threads(1)  # small tensors gain nothing from more, and sums come out the same in every process


def pytest_collection_finish() -> None:
    """Spare every later garbage collection a look at the modules: with torch's, one takes a third of a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries report leaks at the end


@pytest.fixture(autouse=True, scope="session")
def _state_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The file of given plug-ins is that of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """Every test: a fixed seed, Pyro's checks on, and none of its parameters from other tests."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    with pyro.validation_enabled(True):
        yield


@pytest.fixture
def as_in_a_run(_reproducible: None) -> Iterator[None]:
    """Pyro's checks off, as they are in training and in scoring: of many small steps they take most of the time."""
    with pyro.validation_enabled(False):
        yield


@pytest.fixture
def no_workers_of_others() -> None:
    """Free the samplers of earlier tests, which an error's traceback may still hold, and with them their processes."""
    gc.collect()
