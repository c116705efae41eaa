"""The file of decoded images: what was kept is read back, by any process, and nothing else is."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest
import torch

from kpp_pyro.data.decoded_file import DecodedFile


def image(number: int) -> torch.Tensor:
    return torch.randint(256, (1, 3, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))


def test_what_was_kept_is_read_back_and_nothing_else() -> None:
    kept, pixels = DecodedFile(15), torch.zeros(1, 3, 5, dtype=torch.uint8)
    for number in (4, 0, 9):
        kept.keep(number, image(number))
    for number in range(12):
        pixels.zero_()
        assert kept.read(number, pixels) == (number in (0, 4, 9))
        assert torch.equal(pixels, image(number) if number in (0, 4, 9) else torch.zeros_like(pixels))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_it(method: str) -> None:
    kept, pixels = DecodedFile(15), torch.zeros(1, 3, 5, dtype=torch.uint8)
    kept.keep(1, image(1))
    process = multiprocessing.get_context(method).Process(target=_read_and_keep, args=(kept,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert kept.read(2, pixels) and torch.equal(pixels, image(2))


def _read_and_keep(kept: DecodedFile) -> None:
    pixels = torch.zeros(1, 3, 5, dtype=torch.uint8)
    assert kept.read(1, pixels) and torch.equal(pixels, image(1))
    kept.keep(2, image(2))


def test_an_image_whose_end_is_missing_is_not_read() -> None:
    kept, pixels = DecodedFile(15), torch.zeros(1, 3, 5, dtype=torch.uint8)
    kept.keep(0, image(0))
    os.ftruncate(kept._descriptor, 15)
    assert not kept.read(0, pixels)


def test_a_full_disk_costs_the_kept_image_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    kept, pixels = DecodedFile(15), torch.zeros(1, 3, 5, dtype=torch.uint8)
    monkeypatch.setattr(os, "pwrite", full)
    kept.keep(3, image(3))
    assert not kept.read(3, pixels)


def test_the_file_has_no_name_and_goes_with_its_last_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = DecodedFile(15)
    kept.keep(0, image(0))
    descriptor = kept._descriptor
    assert not list(tmp_path.iterdir()) and os.fstat(descriptor).st_size == 16
    del kept
    with pytest.raises(OSError):
        os.fstat(descriptor)
