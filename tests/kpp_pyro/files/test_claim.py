"""One writer a folder: claims of several processes, of killed ones, and of folders that cannot be claimed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import atomic_write, remove_abandoned
from kpp_pyro.files.claim import LOCK, claimed

CLAIM = """
import sys, time
from pathlib import Path
from kpp_pyro.errors import InputError
from kpp_pyro.files.claim import claimed
begin, path, unique = float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "unique"
time.sleep(max(0.0, begin - time.time()))
try:
    with claimed(path, unique=unique) as taken:
        (taken / "mine").touch()
        print(taken, flush=True)
        time.sleep(float(sys.argv[4]))
except InputError as error:
    print(f"refused: {error}")
"""


def claimants(count: int, path: Path, how: str, seconds: float) -> list[subprocess.Popen[str]]:
    """Processes that claim a folder at one moment, and hold it."""
    command = [sys.executable, "-c", CLAIM, str(time.time() + 1), str(path), how, str(seconds)]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]


def test_of_two_processes_one_claims_a_folder(tmp_path):
    said = sorted(process.communicate(timeout=60)[0].strip() for process in claimants(2, tmp_path / "run", "given", 2))
    assert said == [
        str(tmp_path / "run"),
        f"refused: --out {tmp_path / 'run'}: expected a folder that no other process writes to, found one",
    ]


def test_processes_that_take_a_new_folder_all_get_one(tmp_path):
    said = {process.communicate(timeout=60)[0].strip() for process in claimants(3, tmp_path / "run", "unique", 1)}
    assert said == {str(tmp_path / name) for name in ("run", "run-2", "run-3")}


def test_a_killed_process_blocks_nobody(tmp_path):
    (process,) = claimants(1, tmp_path / "run", "given", 60)
    assert process.stdout is not None and process.stdout.readline()
    with pytest.raises(InputError, match="no other process writes to"), claimed(tmp_path / "run"):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with claimed(tmp_path / "run") as path:
        assert (path / "mine").exists()


def test_a_claim_within_a_process_excludes_others_too(tmp_path):
    refused = pytest.raises(InputError, match=r"^--resume .*/run: expected a folder that no other process writes to")
    with claimed(tmp_path / "run"), refused, claimed(tmp_path / "run", "--resume"):
        pass


def test_what_was_made_for_nothing_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "mine").mkdir()
    with claimed(tmp_path / "mine" / "new" / "run"):
        pass
    assert list((tmp_path / "mine").iterdir()) == []
    with claimed(tmp_path / "mine"):  # was there before
        pass
    with claimed(tmp_path / "mine" / "run", unique=True) as path:
        (path / "file").touch()
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "mine" / "run", unique=True) as path:
        assert path == tmp_path / "mine" / "run-2"
        raise KeyboardInterrupt
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [LOCK, "run"]


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300, "a\0b", "dangling/below", "loop"])
def test_a_place_where_no_folder_can_be_is_named(name, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(os.listdir(tmp_path))
    refused = pytest.raises(InputError, match=r"^--out (?s:.*): expected a folder that can be written, found ")
    with refused, claimed(tmp_path / name):
        pass
    assert sorted(os.listdir(tmp_path)) == before and (tmp_path / "file").read_text() == "mine"


def test_files_that_killed_writers_left_are_removed_after_a_day(tmp_path):
    atomic_write(tmp_path / "whole", b"content")
    for name, age_seconds in {".1-aa.partial": 90_000, ".2-bb.partial": 60, "kept.partial": 90_000}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age_seconds,) * 2)
    remove_abandoned(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".2-bb.partial", "kept.partial", "whole"]
