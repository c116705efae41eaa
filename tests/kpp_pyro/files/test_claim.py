"""One writer a folder: claims of several processes, of killed ones, and of folders that cannot be claimed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kpp_pyro.errors import InputError, OutputError
from kpp_pyro.files.atomic import atomic_write, remove_abandoned
from kpp_pyro.files.claim import LOCK, claimed

CLAIM = """
import sys
from pathlib import Path
from kpp_pyro.errors import InputError
from kpp_pyro.files.claim import claimed
sys.stdin.readline()
try:
    with claimed(Path(sys.argv[1]), unique=sys.argv[2] == "unique") as taken:
        (taken / "mine").touch()
        print(taken, flush=True)
        sys.stdin.read()
except InputError as error:
    print(f"refused: {error}", flush=True)
"""


@contextmanager
def claimants(count: int, path: Path, how: str) -> Iterator[tuple[list[subprocess.Popen[str]], list[str]]]:
    """Processes that claim a folder at one moment, and hold it inside this context; and what each says."""
    command = [sys.executable, "-c", CLAIM, str(path), how]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    try:
        yield processes, [process.stdout.readline().strip() for process in processes if process.stdout]
    finally:
        for process in processes:
            process.communicate()


def test_of_two_processes_one_claims_a_folder(tmp_path):
    with claimants(2, tmp_path / "run", "given") as (_, said):
        assert sorted(said) == [
            str(tmp_path / "run"),
            f"refused: --out {tmp_path / 'run'}: expected a folder of this process, found one that another uses",
        ]


def test_processes_that_take_a_new_folder_all_get_one(tmp_path):
    with claimants(3, tmp_path / "run", "unique") as (_, said):
        assert set(said) == {str(tmp_path / name) for name in ("run", "run-2", "run-3")}


def test_a_killed_process_blocks_nobody(tmp_path):
    with claimants(1, tmp_path / "run", "given") as ((process,), _):
        with pytest.raises(InputError, match="found one that another uses"), claimed(tmp_path / "run"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with claimed(tmp_path / "run") as path:
            assert (path / "mine").exists()


def test_a_claim_within_a_process_excludes_others_too(tmp_path):
    refused = pytest.raises(InputError, match=r"^--resume .*/run: expected a folder of this process")
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


def test_the_error_of_work_in_a_folder_that_is_gone_is_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "run") as path:
        shutil.rmtree(path)
        raise ZeroDivisionError
    with claimed(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOLCK, OutputError), (errno.ENOSPC, OutputError), (errno.EROFS, InputError)]
)
def test_a_folder_that_cannot_be_locked_leaves_nothing(number, kind, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with pytest.raises(kind, match=os.strerror(number)) as caught, claimed(tmp_path / "new" / "run"):
        pass
    assert type(caught.value) is kind and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300, "a\0b", "\udcfe", "dangling/below", "loop"])
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
