"""Reading a block of shell commands: Bash itself takes it apart, and nothing of it is run."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from experiments.shared.command_line import command_of
from tests.experiments.running import ROOT
from tests.waiting import HANGS

_BETWEEN_WORDS, _END_OF_COMMAND = "\x1f", "\x1e"
_RECORDING = r"""
PATH=/nowhere # so that Bash finds no program, and calls this function in its place
exec 3>&1 >/dev/null
command_not_found_handle() { local IFS=$'\x1f'; printf '%s\x1e' "$*" >&3; } # in one piece: a pipe calls two at once
cd() { :; }
source() { :; }
.() { :; }
"""
_FOLDERS = (ROOT / "experiments", ROOT / "docs")  # of scripts
_COMMANDS = {command_of(path.name): path for path in (ROOT / "experiments").glob("*.py")}


@dataclass(frozen=True)
class Command:
    """A call of a script of the project.

    Attributes:
        script: its file.
        arguments: those of the script, as the shell passes them.
    """

    script: Path
    arguments: list[str]

    def __str__(self) -> str:
        return " ".join([self.script.name, *self.arguments])

    def with_flag(self, flag: str) -> Command:
        """The same call with another flag, unless it has it."""
        return self if flag in self.arguments else Command(self.script, [*self.arguments, flag])

    def words(self) -> Iterator[tuple[str, str]]:
        """Each argument that is no flag, with the flag in front of it, or "" if there is none."""
        flag = ""
        for word in self.arguments:
            if word.startswith("--"):
                flag, _, word = word.partition("=")
            if word and not word.startswith("--"):
                yield flag, word
                flag = ""


def commands(text: str) -> list[Command]:
    """The calls of scripts in a block, with variables filled in and loops unrolled; other programs are left out."""
    return [found for words in programs(text) if (found := _call(words))]


@cache
def programs(text: str) -> list[list[str]]:
    """The words of every program that a block calls; absolute paths become relative ones, below the current folder."""
    with tempfile.TemporaryDirectory() as nowhere:
        found = subprocess.run(
            ["bash", "--norc", "--noprofile", "-c", _RECORDING + text],
            capture_output=True,
            text=True,
            cwd=nowhere,
            env={},
            timeout=HANGS,
        )
    assert found.stderr == "", f"{found.stderr}\n{text}"
    lines = [line.split(_BETWEEN_WORDS) for line in found.stdout.split(_END_OF_COMMAND)[:-1]]
    return [[word.lstrip("/") for word in words] for words in lines]


def _call(words: list[str]) -> Command | None:
    """The call of a script that a program is, or that it is told to make, as torchrun and nohup are."""
    for number, word in enumerate(words):
        script = _COMMANDS.get(word) or ROOT / word
        if script.suffix == ".py" and script.parent in _FOLDERS and script.is_file():
            return Command(script, words[number + 1 :])
    program, first = words[0], words[1] if len(words) > 1 else ""
    is_call = program.startswith("kpp-") or (program.startswith("python") and first.endswith(".py"))
    assert not is_call, f"{' '.join(words)}: no such script"
    return None
