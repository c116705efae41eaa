"""A part of a configuration checks itself, and says what is wrong in one sentence that names the flag."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import Field, model_validator

from kpp_pyro.config_part import ConfigPart, did_you_mean, name_in, names_of, require_name, require_value
from kpp_pyro.errors import InputError
from kpp_pyro.schema import Count, Natural, NotNegative, Positive

COLOURS = {"red": 1, "green": 2, "dark_blue": 3}


class Inner(ConfigPart):
    """A part within another one."""

    depth: Count = 1
    """How deep."""


class Part(ConfigPart):
    """One field of every kind."""

    colour: Annotated[str, name_in(COLOURS)] = "red"
    """Which colour."""
    layer_count: Count = 2
    """How many layers."""
    skipped: Natural = 0
    rate: Positive = 0.5
    decay: NotNegative = 0.0
    share: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    below: Annotated[float, Field(lt=1)] = 0.0
    size: Literal["small", "large"] = "small"
    fast: bool = False
    seed: Count | None = None
    folder: Path = Path("data")
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _check_rate(self) -> Part:
        if self.rate < self.decay:
            raise InputError(f"--rate: expected at least --decay, found {self.rate}")
        return self


def test_defaults_are_there_and_what_is_given_is_kept():
    assert Part().colour == "red" and Part().inner.depth == 1
    part = Part(colour="dark_blue", layer_count=3, seed=4, folder="pictures", inner={"depth": 5}, rate=1)
    assert (part.colour, part.layer_count, part.seed, part.inner.depth, part.rate) == ("dark_blue", 3, 4, 5, 1.0)
    assert part.folder == Path("pictures")
    assert part == Part(**dict(part)) and part != Part()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": "gren"}, "--colour: expected one of red, green, dark_blue, found 'gren' (did you mean green?)"),
        ({"colour": "xyz"}, "--colour: expected one of red, green, dark_blue, found 'xyz'"),
        ({"colour": 3}, "--colour: expected a text, found 3"),
        ({"layer_count": 0}, "--layer-count: expected at least 1, found 0"),
        ({"layer_count": 2**63}, f"--layer-count: expected less than {2**63}, found {2**63}"),
        ({"layer_count": 1.5}, "--layer-count: expected a whole number, found 1.5"),
        ({"layer_count": "many"}, "--layer-count: expected a whole number, found 'many'"),
        ({"layer_count": None}, "--layer-count: expected a whole number, found None"),
        ({"layer_count": True}, "--layer-count: expected a value other than true or false, found True"),
        ({"rate": False}, "--rate: expected a value other than true or false, found False"),
        ({"skipped": -1}, "--skipped: expected at least 0, found -1"),
        ({"rate": 0}, "--rate: expected more than 0.0, found 0"),
        ({"rate": "fast"}, "--rate: expected a number, found 'fast'"),
        ({"rate": float("inf")}, "--rate: expected a finite number, found inf"),
        ({"rate": float("nan")}, "--rate: expected a finite number, found nan"),
        ({"decay": -0.5}, "--decay: expected at least 0.0, found -0.5"),
        ({"share": 0.75}, "--share: expected at most 0.5, found 0.75"),
        ({"below": 1.0}, "--below: expected less than 1.0, found 1.0"),
        ({"size": "huge"}, "--size: expected one of small or large, found 'huge'"),
        ({"fast": "perhaps"}, "--fast: expected true or false, found 'perhaps'"),
        ({"seed": 0}, "--seed: expected at least 1, found 0"),
        ({"folder": 3}, "--folder: expected a path, found 3"),
        ({"inner": 3}, "--inner: expected a mapping, found 3"),
        ({"inner": {"depth": 0}}, "--depth: expected at least 1, found 0"),
        ({"decay": 1.0}, "--rate: expected at least --decay, found 0.5"),
    ],
    ids=str,
)
def test_a_value_that_a_field_cannot_hold_is_refused_in_one_sentence(values, message):
    with pytest.raises(InputError) as error:
        Part(**values)
    assert str(error.value) == message
    assert error.value.__cause__ is None  # nothing of pydantic's is shown


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer_cuont": 3}, r"--layer-cuont: .*, found 'layer_cuont' \(did you mean layer_count\?\)$"),
        ({"xyz": 3}, "--xyz: expected one of colour, layer_count, .*, inner, found 'xyz'$"),
        ({"inner": {"dept": 3}}, r"--dept: .*, found 'dept' \(did you mean depth\?\)$"),
    ],
    ids=str,
)
def test_a_field_that_there_is_not_is_answered_with_the_nearest(values, message):
    with pytest.raises(InputError, match=message):
        Part(**values)


def test_long_values_are_cut_and_odd_texts_are_quoted():
    with pytest.raises(InputError, match=r"found '9{96}\.\.\.$"):
        Part(skipped="9" * 97 + "x" * 30)
    with pytest.raises(InputError, match="found 'two words'"):
        Part(size="two words")
    with pytest.raises(InputError, match="found ''"):
        Part(layer_count="")


def test_a_part_is_frozen():
    part = Part()
    with pytest.raises(InputError, match=r"^layer_count: "):
        part.layer_count = 3
    assert part == Part() and hash(part) == hash(Part())


def test_what_is_stored_as_json_is_read_back():
    part = Part(colour="green", folder="pictures", seed=3)
    assert Part(**json.loads(json.dumps(part.model_dump(mode="json")))) == part


def test_every_field_says_what_it_is_for():
    fields = Part.model_fields
    assert fields["colour"].description == "Which colour." and fields["layer_count"].description == "How many layers."


def test_a_name_is_known_as_soon_as_it_is_registered(monkeypatch):
    with pytest.raises(InputError, match="found 'mauve'"):
        Part(colour="mauve")
    monkeypatch.setitem(COLOURS, "mauve", 4)
    assert Part(colour="mauve").colour == "mauve"
    assert names_of(Part.model_fields["colour"]) == ["red", "green", "dark_blue", "mauve"]
    assert names_of(Part.model_fields["size"]) == [] == names_of(Part.model_fields["layer_count"])


def test_names_are_looked_up_and_the_nearest_is_asked_for():
    require_name("red", COLOURS)
    with pytest.raises(
        ValueError, match=r"^expected one of red, green, dark_blue, found 'rad' \(did you mean red\?\)$"
    ):
        require_name("rad", COLOURS)
    assert did_you_mean("rad", COLOURS) == " (did you mean red?)" and did_you_mean("zzz", COLOURS) == ""


@pytest.mark.parametrize("value", [1, 7, np.int64(7), 2**63 - 1])
def test_a_whole_number_in_range_is_one(value):
    assert require_value("n", value, Count) == value


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0, "at least 1, found 0"),
        (2**63, f"less than {2**63}, found {2**63}"),
        (1.0, "a whole number, found 1.0"),
        (True, "a whole number, found True"),
        (None, "a whole number, found None"),
        ("1", "a whole number, found '1'"),
    ],
)
def test_what_is_no_whole_number_in_range_is_refused_by_name(value, found):
    with pytest.raises(InputError, match=f"^n: expected {found}$"):
        require_value("n", value, Count)


def test_a_field_cannot_be_deleted():
    part = Inner()
    with pytest.raises(InputError, match=r"^depth: expected every field of a configuration to stay, found a deletion$"):
        del part.depth


def test_a_text_is_no_list_of_texts():
    with pytest.raises(InputError, match=r"^names: expected a list, found 'a.png'$"):
        require_value("names", "a.png", Sequence[str])
