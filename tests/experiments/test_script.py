"""How scripts end: errors of the machine, standard output that is closed, variables of torchrun."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
import torch

from experiments.shared.script import run_script
from experiments.svi_train import resuming
from inference.processes import joined_processes, processes_here
from kpp_pyro.errors import InputError
from kpp_pyro.files.run_folder import RunFolder
from tests.experiments.running import ROOT


def raising(error: BaseException):
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (InputError("a\nb: expected c, found d"), 2, "a b: expected c, found d"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 1, "runs/a: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 1, "runs: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), 1, "evaluate.py: Too many open files"),
        (OSError("no temporary folder"), 1, "evaluate.py: no temporary folder"),
        (RecursionError("maximum"), 2, "evaluate.py: expected input of fewer nested levels, found too many"),
        (
            MemoryError(),
            1,
            "memory of the machine: expected enough for these sizes, found too little (MemoryError)",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            1,
            "memory of the machine: expected enough for these sizes, found too little (CUDA out of memory)",
        ),
        (
            RuntimeError("[/pytorch/gloo/gloo/transport/tcp/pair.cc:1] Read error: Connection reset by peer"),
            1,
            "evaluate.py: expected all processes to go on, found that another one has ended",
        ),
        (
            RuntimeError("[/pytorch/gloo/gloo/transport/tcp/unbound_buffer.cc:1] Timed out waiting 600000ms"),
            1,
            "evaluate.py: expected all processes to go on, found that another one has not answered for 10 minutes",
        ),
        (
            torch.distributed.DistNetworkError("failed to recv, got 0 bytes"),
            1,
            "evaluate.py: expected all processes to go on, found that another one has ended",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_of_input_and_machine_are_one_sentence(error, status, sentence, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiments/evaluate.py"])
    assert run_script(raising(error)) == status
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(raising(ZeroDivisionError()))


def printing(done: list[str]):
    def main() -> int:
        print("much" * 10_000, flush=True)
        done.append("computed")
        print("more", flush=True)
        return 0

    return main


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("full", "error: standard output: No space left on device\n"),
        ("broken pipe", ""),
        ("closed", "error: standard output: Bad file descriptor\n"),
    ],
)
def test_an_output_that_takes_nothing_loses_nothing_else(output, sentence, capsys, monkeypatch):
    if output == "closed":
        stream = None
    elif output == "full":
        stream = open("/dev/full", "w")  # noqa: SIM115
    else:
        reading, writing = os.pipe()
        os.close(reading)
        stream = os.fdopen(writing, "w")
    for name in ("stdout", "__stdout__"):
        monkeypatch.setattr(sys, name, stream)
    done: list[str] = []
    assert run_script(printing(done)) == 1
    assert done == ["computed"]
    assert capsys.readouterr().err == sentence
    if stream is not None:
        stream.close()


def test_a_terminal_that_knows_ascii_only_gets_the_rest_escaped(tmp_path, monkeypatch):
    with (tmp_path / "said").open("w", encoding="ascii") as stream:
        for name in ("stdout", "__stdout__", "stderr", "__stderr__"):
            monkeypatch.setattr(sys, name, stream)
        assert run_script(raising(InputError("ü → σ"))) == 2
    assert (tmp_path / "said").read_text() == "error: \\xfc \\u2192 \\u03c3\n"


@pytest.mark.parametrize(
    ("started", "words"),
    [
        ("experiments/svi_train.py", "python experiments/svi_train.py"),
        (str(ROOT / "experiments" / "ablate.py"), f"python {ROOT}/experiments/svi_train.py"),
        ("/usr/bin/kpp-train", "kpp-train"),
        ("/usr/bin/kpp-ablate", "kpp-train"),
        ("notebook", "python experiments/svi_train.py"),
    ],
)
def test_commands_that_are_printed_are_for_a_shell_and_begin_like_the_one_that_was_typed(started, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started])
    assert resuming(RunFolder(Path("runs/my run"))) == f"{words} --resume 'runs/my run'"


def test_the_sentence_on_a_folder_of_a_run_is_for_a_shell(tmp_path):
    folder = RunFolder(tmp_path / "my run")
    folder.path.mkdir()
    folder.config.touch()
    with pytest.raises(InputError, match=f"go on with --resume '{folder.path}'$"):
        folder.require_new()


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"WORLD_SIZE": "many"}, "^WORLD_SIZE in the environment: expected a whole number, found 'many'$"),
        ({"RANK": "x"}, "^RANK in the environment: expected a whole number, found 'x'$"),
        ({"RANK": "2"}, "^RANK in the environment: expected less than 2, found 2$"),
        ({"LOCAL_RANK": "-1"}, "^LOCAL_RANK in the environment: expected at least 0, found -1$"),
        ({"MASTER_PORT": "abc"}, "^torchrun: expected 2 processes that meet, found .*abc"),
    ],
)
def test_variables_of_torchrun_that_cannot_be_are_named(variables, sentence, monkeypatch):
    valid = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in {**valid, **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=sentence), joined_processes():
        pass


def test_the_number_of_processes_here_is_at_least_one(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "0")
    with pytest.raises(InputError, match=r"^LOCAL_WORLD_SIZE in the environment: expected at least 1, found 0$"):
        processes_here()
