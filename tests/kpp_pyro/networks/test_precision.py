"""The precision that is fast on a device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kpp_pyro.networks import precision
from kpp_pyro.networks.precision import fast_precision, product_seconds

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _measured_anew() -> Iterator[None]:
    precision._is_faster_in_bfloat16.cache_clear()
    yield
    precision._is_faster_in_bfloat16.cache_clear()


def a_cpu(monkeypatch: pytest.MonkeyPatch, seconds: dict[torch.dtype, float], **flags: bool) -> list[torch.dtype]:
    """A CPU with these flags, and with these seconds of a product; returns what is measured on it, as it grows."""
    measured: list[torch.dtype] = []

    def stand_in(dtype: torch.dtype) -> float:
        measured.append(dtype)
        return seconds[dtype]

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    monkeypatch.setattr(precision, "product_seconds", stand_in)
    return measured


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
@pytest.mark.parametrize(
    ("gflops", "expected"),
    [
        ((110, 450), torch.bfloat16),
        ((33, 2), torch.float32),  # there are such CPUs, with the flag
        ((100, 120), torch.float32),  # casts of the weights would cost more than that
    ],
)
def test_bfloat16_is_taken_where_its_products_are_clearly_faster(monkeypatch, flag, gflops, expected):
    seconds = {torch.float32: 1 / gflops[0], torch.bfloat16: 1 / gflops[1]}
    measured = a_cpu(monkeypatch, seconds, **{flag: True})
    assert [fast_precision(CPU) for _ in range(3)] == [expected] * 3
    assert sorted(map(str, measured)) == ["torch.bfloat16", "torch.float32"]  # once per process


def test_a_cpu_without_such_instructions_is_not_measured(monkeypatch):
    measured = a_cpu(monkeypatch, {torch.float32: 1.0, torch.bfloat16: 0.1}, avx512_bf16=False)
    assert fast_precision(CPU) == torch.float32
    assert not measured


def test_a_measurement_leaves_the_random_state_and_the_threads_as_they_were(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert fast_precision(CPU) in (torch.float32, torch.bfloat16)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_interrupts_one_product_does_not_count(monkeypatch):
    clock = iter([0.0, 5.0, 5.0, 5.25, 6.0, 7.0, 7.0, 9.0])  # products of 5, 0.25, 1 and 2 seconds
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(clock))
    assert product_seconds(torch.float32) == 0.25
