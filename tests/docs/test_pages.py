"""Every command and every block of Python in the documentation works as it stands there, in a short variant.

Commands and Python are run, page by page; commands that take longer are checked by their scripts. A mark in front of a
block says what else is to be done with it:

    <!-- not run: why -->     nothing
    <!-- checked: why -->     its commands are checked, and not run
    <!-- file: NAME -->       the reader puts it into a file
    <!-- line: NAME -->       the reader adds it to a file of the project, see `test_extend.py`
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from experiments.svi_train import _SCRIPT_FLAGS
from inference import Config
from kpp_pyro.config_part import flag
from tests.docs.following import Follower, names_of
from tests.docs.markdown import DOCS, blocks, code_spans, pages
from tests.docs.shell import commands
from tests.docs.short import Shorter, short_runs
from tests.experiments.running import ROOT
from tests.plugged import forgotten_after

GUIDE = DOCS / "guides" / "python.md"
OTHER_NAMES = {"console", "ipython3", "py", "python3", "sh", "shell"}  # of Bash and of Python
SCRIPTS = {path.name: path for folder in ("experiments", "docs") for path in (ROOT / folder).glob("*.py")}
_MARK = re.compile(r"^\s*<!-- (?:not run|checked)", re.MULTILINE)
_CALL = re.compile(r"(?:^|[\s/])(\w+\.py)\s+(.*)", re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


PAGES = pytest.mark.parametrize("page", pages(), ids=name)
FOLLOWED = [page for page in pages() if {block.language for block in blocks(page)} & {"bash", "python"}]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def reader_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The current folder is a new one, with copies of what commands name; runs are short."""
    for path in [*DOCS.rglob("*.py"), *(ROOT / "experiments" / "configs").rglob("*.yaml")]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    monkeypatch.chdir(tmp_path)
    with short_runs(), forgotten_after():
        yield


@pytest.mark.usefixtures("reader_s_folder", "as_in_a_run")
@pytest.mark.parametrize("page", FOLLOWED, ids=name)
def test_a_page_works_as_it_stands_there(page: Path, shelf: Path) -> None:
    Follower(page, shelf).follow()


def test_bash_takes_a_block_apart() -> None:
    text = """
        M="--steps 3 --width 16"  # a comment
        for seed in 0 1; do OMP_NUM_THREADS=1 kpp-train $M --seed $seed \\
            --out "a run"; done
        cd / && . .venv/bin/activate && torchrun --nproc-per-node 8 experiments/evaluate.py runs/mnist | head -3
    """
    first, second, scored = commands(text)
    assert str(first) == "svi_train.py --steps 3 --width 16 --seed 0 --out a run"
    assert str(second) == "svi_train.py --steps 3 --width 16 --seed 1 --out a run"
    assert str(scored) == "evaluate.py runs/mnist"
    assert list(first.words()) == [("--steps", "3"), ("--width", "16"), ("--seed", "0"), ("--out", "a run")]


@pytest.mark.parametrize("text", ["python experiments/svi_trian.py", "kpp-trian --steps 3", "kpp-train --steps 3 ("])
def test_a_command_that_cannot_be_is_found(text: str) -> None:
    with pytest.raises(AssertionError, match=r"no such script|syntax error"):
        commands(text)


def test_python_is_shortened_where_it_draws() -> None:
    shortened = {
        "kpp.score(run, particles=5000, split='test')": "kpp.score(run, particles=8, split='test', limit=8)",
        "kpp.train(config, steps=500)": "kpp.train(config, steps=500)",
        "sample(draws=n, chains=1)": "sample(draws=n, chains=1)",
    }
    for text, short in shortened.items():
        assert ast.unparse(Shorter().visit(ast.parse(text))) == short


@PAGES
def test_a_block_that_is_not_run_has_a_reason(page: Path) -> None:
    marks = [block.marked(kind) for block in blocks(page) for kind in ("not run", "checked")]
    reasons = [reason for reason in marks if reason is not None]
    assert all(reasons) and len(reasons) == len(_MARK.findall(page.read_text()))


@PAGES
def test_blocks_have_the_names_of_languages_that_are_tested(page: Path) -> None:
    assert not [str(block) for block in blocks(page) if block.language in OTHER_NAMES]


@PAGES
def test_flags_in_the_text_are_flags_of_their_script(page: Path) -> None:
    for script, rest in [call.groups() for span in code_spans(page) if (call := _CALL.search(span))]:
        given = {word.partition("=")[0] for word in rest.split() if word.startswith("--")}
        assert script not in SCRIPTS or not given or given <= flags_of(script), f"{script} {rest}"


def flags_of(script: str) -> set[str]:
    if script == "svi_train.py":
        names = [*Config().flat(), *_SCRIPT_FLAGS]
    else:
        names = [field.name for field in fields(names_of(SCRIPTS[script])["Arguments"])]
    return {flag(prefix + name) for name in names for prefix in ("", "no_")} | {"--help", "--data"}


def test_the_ten_lines_of_the_readme_are_those_of_the_guide() -> None:
    python, guide = ([b.text for b in blocks(page) if b.language == "python"] for page in (ROOT / "README.md", GUIDE))
    assert python == guide[:1]


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.py")), ids=lambda path: path.stem)
def test_scripts_of_the_documentation_find_what_they_import(path: Path) -> None:
    assert names_of(path)["__doc__"]
