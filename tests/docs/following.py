"""Following a page of the documentation in a folder of its own: its commands and its Python, in their order."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from kpp_pyro.data.digits import load_digits
from tests.docs.markdown import Block, blocks, pages
from tests.docs.shell import Command, commands
from tests.docs.short import Shorter, called, shortened
from tests.experiments.running import ROOT, run, script_of_docs

QUICK = {"compare_runs", "denoise", "draw_figures", "evaluate", "generate", "pack_weights", "recall", "svi_train"}
"""Scripts whose short variants take seconds; of the others the command line is parsed alone."""
PICTURES = 24  # a folder of 20 is the smallest to train on, and a memory of the default size holds 32
UNDONE = {"not run", "file", "line"}
"""Marks of blocks that are not done in their place on a page."""
_RUN = re.compile(r"((?:.*/)?runs/[^/]+|RUN)(?:/config\.json)?")
_OF_PICTURES = {"--data-dir", "--data", "--cue", "--mask"}
_SHAPE = re.compile(r"^(\w+) = .*# \(([\w, ]+)\)", re.MULTILINE)


@dataclass
class Follower:
    """Somebody who does what a page says, in the current folder.

    Attributes:
        page: the file.
        shelf: folder of short runs, for pages that begin with a run.
        names: what the page's Python has defined.
    """

    page: Path
    shelf: Path
    names: dict[str, Any] = field(default_factory=dict)

    def follow(self) -> None:
        """Make the page's files, then do everything that is not marked `<!-- not run: why -->`, in order."""
        found = blocks(self.page)
        for block in found:
            if name := block.marked("file"):
                Path(Path(name).name).write_text(block.text)
        for block in [block for block in found if block.mark.partition(":")[0] not in UNDONE]:
            try:
                self.follow_block(block)
            except Exception as error:
                error.add_note(f"in the block at {block}")
                raise

    def follow_block(self, block: Block) -> None:
        if block.language == "bash":
            for command in commands(block.text):
                is_run = command.script.stem in QUICK and block.marked("checked") is None
                (self.run if is_run else self.check)(command)
        elif block.language == "python":
            self.execute(block)

    def run(self, command: Command) -> None:
        """Run a command in its short variant."""
        self.prepare(command)
        script = importlib.import_module(f"experiments.{command.script.stem}")
        with pytest.MonkeyPatch.context() as patch:
            if hasattr(script, "Arguments"):
                patch.setattr(script, "parse", shortened(script.parse))
            succeed(command)

    def check(self, command: Command) -> None:
        """Check a command line, as far as that needs no data."""
        if command.script.stem in ("svi_train", "ablate"):
            self.prepare(command)
            succeed(command if "--help" in command.arguments else command.with_flag("--dry-run"))
        elif "Arguments" in (names := names_of(command.script)):
            arguments = names["parse"](names["Arguments"], command.arguments)
            names.get("require_valid", lambda _: None)(arguments)

    def execute(self, block: Block) -> None:
        """Run Python, with fewer draws, and check the shapes that comments state."""
        tree = ast.parse(block.text)
        self.prepare_calls([node for node in ast.walk(tree) if isinstance(node, ast.Call)])
        exec(compile(Shorter().visit(tree), str(block), "exec"), self.names)
        for name, shape in _SHAPE.findall(block.text):
            require_shape(self.names[name], shape, f"{name} at {block}")

    def prepare(self, command: Command) -> None:
        """Make the runs and the pictures that a command reads, and remove what it will make anew."""
        for flag, word in command.words():
            if flag == "--out":
                shutil.rmtree(word, ignore_errors=True)
                Path(word).unlink(missing_ok=True)
            elif found := _RUN.fullmatch(word):
                self.make_run(found[1])
            elif flag in _OF_PICTURES or (flag == "--write" and command.script.stem == "recall"):
                make_pictures(Path(word))

    def prepare_calls(self, calls: list[ast.Call]) -> None:
        """Make the runs and the pictures that Python reads, but not the runs that it trains itself."""
        texts = [(called(call), arg.value) for call in calls for arg in call.args if isinstance(arg, ast.Constant)]
        trained = [text for name, text in texts if name == "train"]
        for name, text in texts:
            found = _RUN.fullmatch(str(text))
            if name in ("load", "read") and found and found[1] not in trained:
                self.make_run(found[1])
            elif name in ("read_pictures", "named_pictures"):
                make_pictures(Path(text))

    def make_run(self, name: str) -> None:
        """Put a run there, if there is none: that of the command of this page, or of another one, that makes it."""
        if Path(name).exists():
            return
        flags = training_of(name, self.page)
        kept = self.shelf / str(crc32(" ".join(flags).encode()))
        if not kept.exists():
            command = Command(ROOT / "experiments" / "svi_train.py", [*flags, "--out", str(kept)])
            self.prepare(command)
            succeed(command)
        shutil.copytree(kept, name)


def training_of(name: str, page: Path) -> list[str]:
    """The flags, but for --out, of the command that trains a run; none if there is no such command."""
    for path in (page, *pages()):
        for block in blocks(path):
            if block.language == "bash" and block.marked("not run") is None:
                for command in commands(block.text):
                    if command.script.stem == "svi_train" and ("--out", name) in command.words():
                        place = command.arguments.index("--out")
                        return command.arguments[:place] + command.arguments[place + 2 :]
    return []


def make_pictures(path: Path) -> None:
    """Put a picture, an array of pictures, or a folder of pictures there, as the name says, if there is nothing."""
    if path.exists():
        return
    digits = load_digits(path).test.images[:PICTURES, 0].numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".npy", ".npz"):
        {".npy": np.save, ".npz": np.savez}[path.suffix](path, digits)
    elif path.suffix:
        Image.fromarray(digits[0]).save(path)
    else:
        path.mkdir()
        for number, digit in enumerate(digits):
            Image.fromarray(digit).save(path / f"{number}.png")


def succeed(command: Command) -> None:
    finished = run(command.script.name, *command.arguments)
    assert finished.returncode == 0, f"{command}\n{finished.stdout}{finished.stderr}"


@cache
def names_of(script: Path) -> dict[str, Any]:
    """What a script defines."""
    if script.parent.name == "experiments":
        return vars(importlib.import_module(f"experiments.{script.stem}"))
    return vars(script_of_docs(script.stem))


def require_shape(value: Any, expected: str, what: str) -> None:
    """Compare the shape of a tensor, or of a memory's, with one such as "B, 32, 100"; letters stand for any number."""
    found = getattr(value, "shape", None) or value.value.shape
    sides = [side.strip() for side in expected.split(",") if side.strip()]
    agree = [side.isalpha() or int(side) == size for side, size in zip(sides, found, strict=False)]
    assert len(sides) == len(found) and all(agree), f"{what}: expected ({expected}), found {tuple(found)}"
