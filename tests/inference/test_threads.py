"""The number of torch's threads: what other programs leave idle, unless somebody has chosen it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil
import pytest
import torch

from inference import threads
from inference.processes import Processes
from inference.threads import choose_threads, idle_cores


@pytest.fixture(autouse=True)
def _three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many threads as a machine of three cores begins with, and no choice of the user."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def watch(monkeypatch: pytest.MonkeyPatch, busy: list[float], own: set[int]) -> None:
    """A machine whose cores are busy, in per cent, and of which this process may use its own."""
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: busy)
    monkeypatch.setattr(threads, "own_cores", lambda: own)


@pytest.mark.parametrize(
    ("busy", "own", "idle"),
    [
        ([2.0, 5.0, 1.0], {0, 1, 2}, 3),  # the system itself
        ([100.0, 3.0, 0.0], {0, 1, 2}, 2),
        ([50.0, 60.0, 0.0], {0, 1, 2}, 2),  # one program, on two cores by turns
        ([100.0, 100.0, 100.0], {0, 1, 2}, 1),
        ([100.0, 100.0, 0.0, 0.0], {2, 3}, 2),  # others' cores do not count
        ([100.0], {0, 7}, 1),  # of core 7, the machine says nothing
    ],
)
def test_idle_cores_are_those_that_no_program_uses(monkeypatch, busy, own, idle):
    watch(monkeypatch, busy, own)
    assert idle_cores() == idle
    choose_threads()
    assert torch.get_num_threads() == idle


@pytest.mark.parametrize(("text", "is_chosen"), [("2", True), ("3,2", True), ("", False), ("0", False), ("abc", False)])
def test_what_openmp_ignores_is_no_choice(monkeypatch, text, is_chosen):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    monkeypatch.setattr(threads, "idle_cores", lambda: 1)
    choose_threads()
    assert torch.get_num_threads() == (3 if is_chosen else 1)


def test_a_process_has_at_least_one_idle_core_and_no_more_than_its_own():
    assert 1 <= idle_cores() <= len(threads.own_cores()) <= (os.cpu_count() or 1)


def test_more_threads_than_torch_has_are_never_taken(monkeypatch):
    monkeypatch.setattr(threads, "idle_cores", lambda: 8)
    choose_threads()
    assert torch.get_num_threads() == 3
    choose_threads(kept=8)
    assert torch.get_num_threads() == 3


def test_the_number_of_a_run_is_kept_however_busy_the_machine_is(monkeypatch):
    monkeypatch.setattr(threads, "idle_cores", lambda: 1)
    choose_threads(kept=2)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_choice_of_the_user_stays(monkeypatch, name):
    monkeypatch.setattr(threads, "idle_cores", lambda: 1)
    monkeypatch.setenv(name, "3")
    choose_threads()
    choose_threads(kept=2)
    assert torch.get_num_threads() == 3


def test_the_choice_of_torchrun_stays(monkeypatch):
    monkeypatch.setattr(threads, "idle_cores", lambda: 1)
    choose_threads(processes=Processes(rank=1, count=2))
    assert torch.get_num_threads() == 3
