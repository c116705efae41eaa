"""The console commands: one for each script, which does what the script does."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest

from experiments.shared.command_line import command_of
from tests.experiments.running import ROOT
from tests.experiments.test_scripts import SCRIPTS

COMMANDS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_every_script_has_a_command():
    assert {command_of(script): f"experiments.{script.removesuffix('.py')}:command" for script in SCRIPTS} == COMMANDS


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"kpp-explore"}))
def test_a_command_returns_the_exit_status_and_names_what_was_typed(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"/somewhere/bin/{name}", "--unknown"])
    assert EntryPoint(name, COMMANDS[name], "console_scripts").load()() == 2
    found = "error: --unknown: expected a flag of " + name + ", found none of that name"
    assert capsys.readouterr() == ("", f"{found}\n")


def test_the_command_of_the_explorer_ends_the_process(monkeypatch):
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/kpp-explore", "--unknown"])
    EntryPoint("kpp-explore", COMMANDS["kpp-explore"], "console_scripts").load()()
    assert ended == [2]
