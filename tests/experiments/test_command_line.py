"""The parser of all scripts: what it takes, and its one sentence for what it refuses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import pytest
import tyro
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from experiments.shared.command_line import parse
from inference import Config
from kpp_pyro.config_part import flag
from kpp_pyro.errors import InputError
from tests.experiments.running import run
from tests.experiments.test_scripts import SCRIPTS

NEEDED = {
    "compare_runs.py": ["nowhere", "--out", "x.png"],
    "pack_weights.py": ["nowhere", "--out", "x"],
    "recall.py": ["nowhere", "--write", "nowhere", "--out", "x"],
}


@dataclass(frozen=True)
class Arguments:
    """Some arguments."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    steps: Annotated[int, Field(ge=1, le=99)] = 3
    limit: Annotated[int, Field(ge=1)] | None = 7
    strength: tuple[float, ...] = (0.5,)
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    split: Literal["test", "validation"] = "test"
    dry_run: bool = False
    data_dir: Path = Path("data")


@dataclass(frozen=True)
class Required:
    """Arguments without defaults."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], Arguments()),
        (["--steps", "5", "there"], Arguments(Path("there"), steps=5)),
        (["there", "--steps=5", "--data_dir", "pictures"], Arguments(Path("there"), 5, data_dir=Path("pictures"))),
        (["--limit", "None"], Arguments(limit=None)),
        (["--strength", "0.25", "-1e-3", "-.5", "--limit", "2"], Arguments(strength=(0.25, -1e-3, -0.5), limit=2)),
        (["--vary", "a=1,2", "--vary", "b=3", "there"], Arguments(Path("there"), vary=("a=1,2", "b=3"))),
        (["--dry-run", "there"], Arguments(Path("there"), dry_run=True)),
        (["--no-dry-run", "--split", "validation"], Arguments(split="validation")),
        (["--data-dir=-odd", "--", "--there"], Arguments(Path("--there"), data_dir=Path("-odd"))),
        (["-"], Arguments(Path("-"))),
    ],
)
def test_flags_and_positional_arguments_are_parsed(argv, expected):
    assert parse(Arguments, argv) == expected


def test_a_positional_argument_may_take_several_values():
    assert parse(Required, ["a", "--out", "c.png", "b"]) == Required((Path("a"), Path("b")), Path("c.png"))


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--steps", "many"], "--steps: expected a whole number, found 'many'"),
        (["--steps", "1e3"], "--steps: expected a whole number, found 1e3"),
        (["--steps", "0"], "--steps: expected at least 1, found 0"),
        (["--steps", "100"], "--steps: expected at most 99, found 100"),
        (["--steps"], "--steps: expected a value, found none"),
        (["--steps", "1", "--steps=1"], "--steps: expected the flag once, found it twice"),
        (["--dry-run", "--no-dry-run"], "--dry-run: expected the flag once, found it twice"),
        (["--steps", "--dry-run"], "--steps: expected a value, found none"),
        (["--steps", ""], "--steps: expected a value, found ''"),
        (["--steps="], "--steps: expected a value, found ''"),
        (["--strength"], "--strength: expected a value, found none"),
        (["--strength", "0.1", "much"], "--strength: expected a number, found 'much'"),
        (["--split", "tset"], "--split: expected one of test or validation, found 'tset'"),
        (["--dry-run=True"], "--dry-run: expected no value, found 'True'"),
        (["a", "b"], "RUN: expected one value, found 2, 'b' among them"),
        ([""], "RUN: expected a value, found ''"),
        (["--xyz", "a"], "--xyz: expected a flag of svi_train.py, found none of that name"),
        (["--stepz", "3"], "--stepz: expected a flag of svi_train.py, found none of that name (did you mean --steps?)"),
        (["--dat", "3"], "--dat: expected a flag of svi_train.py, found none of that name (did you mean --data-dir?)"),
        (
            ["--no-steps"],
            "--no-steps: expected a flag of svi_train.py, found none of that name (did you mean --steps?)",
        ),
        (["-s", "3"], "-s: expected a flag of svi_train.py, found none of that name"),
    ],
    ids=str,
)
def test_what_cannot_be_parsed_is_refused_in_one_sentence(argv, sentence, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiments/svi_train.py"])
    with pytest.raises(InputError) as error:
        parse(Arguments, argv)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--out", "x"], "RUNS: expected a value, found none"),
        (["x"], "--out: expected a value, found none"),
    ],
)
def test_what_is_required_is_asked_for(argv, sentence):
    with pytest.raises(InputError, match=f"^{sentence}$"):
        parse(Required, argv)


def flags_of(script: str) -> dict[str, Any]:
    """The types of a script's flags, by name."""
    if script == "svi_train.py":
        fields = [field for part in (*Config.parts().values(), Config) for field in part.model_fields.items()]
        return {name: field.annotation for name, field in fields if name not in Config.parts()}
    module = importlib.import_module(f"experiments.{script.removesuffix('.py')}")
    hints = get_type_hints(module.Arguments, include_extras=True)
    return {name: kind for name, kind in hints.items() if tyro.conf.Positional not in getattr(kind, "__metadata__", ())}


def plain_types(kind: Any) -> set[Any]:
    """The types that a flag's type consists of."""
    return {kind}.union(*(plain_types(part) for part in get_args(kind) if isinstance(part, type) or get_args(part)))


def malformed(script: str) -> Iterator[tuple[str, list[str]]]:
    """Malformed arguments, each with the name that its sentence begins with."""
    for name, kind in flags_of(script).items():
        plain, shown = plain_types(kind), flag(name)
        if bool in plain:
            yield shown, [f"{shown}=perhaps"]
            continue
        yield shown, [shown]
        yield shown, [shown, ""]
        yield f"{shown}-", [f"{shown}-", "3"]
        if int in plain or float in plain:
            yield from ((shown, [shown, value]) for value in ("many", "1,5", "0x10"))
        if int in plain:
            yield from ((shown, [shown, value]) for value in ("nan", "1.5", "1e3", str(10**30), str(-(10**30))))


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_flag_of_every_script_refuses_what_is_malformed(script, tmp_path):
    for name, argv in [*malformed(script), ("-x", ["-x"]), ("--verbos", ["--verbos"])]:
        process = run(script, *NEEDED.get(script, []), *argv, cwd=tmp_path)
        lines = process.stderr.splitlines()
        assert (process.returncode, process.stdout, len(lines)) == (2, "", 1), (argv, process)
        assert lines[0].startswith(f"error: {name}: expected "), (argv, lines[0])
    assert not list(tmp_path.iterdir())


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
VALUES = st.sampled_from(["None", "nan", "-1", "1e3", "9" * 30, "", "--", "-", "=", "a=b", "nowhere", "True"]) | WORDS


@pytest.mark.parametrize("script", ["svi_train.py", "denoise.py", "ablate.py", "compare_runs.py"])
def test_no_command_line_ends_in_a_traceback(script, tmp_path):
    flags = [text for name in flags_of(script) for text in (flag(name), f"{flag(name)}=")]
    tokens = st.lists(st.sampled_from(flags) | VALUES, max_size=6)

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(tokens)
    def check(argv: list[str]) -> None:
        first = ["--dry-run"] if script in ("svi_train.py", "ablate.py") else []
        process = run(script, *first, *argv, cwd=tmp_path)
        assert process.returncode in (0, 2)
        if process.returncode:
            assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1

    check()
    assert not list(tmp_path.iterdir())


def test_help_ends_however_narrow_the_terminal_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    process = run("evaluate.py", "--particles", "many", "--help")
    assert process.returncode == 0 and "--particles INT" in process.stdout
