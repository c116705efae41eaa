"""Property: any configuration is complete and comes back from its JSON, or is refused in one sentence."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiments.shared.ablation.grid import read_grid
from inference import Config
from kpp_pyro.errors import InputError
from tests.kpp_pyro.files.nested import changed, places
from tests.kpp_pyro.files.test_any_file import json_values, numbers, some_time

DEFAULTS = Config().to_json()
GRID = {"title": "a", "base": {"width": 16}, "vary": {"reads": [1, 2], "a": {"b": {"seed": 1}}}, "seeds": [0, 1]}


def refused_or(make: Any) -> Any:
    """What a function makes, or None with one sentence."""
    try:
        return make()
    except InputError as error:
        assert ": expected " in str(error) and ", found " in str(error)
        assert "\n" not in str(error) and len(str(error)) < 1500
        return None


@some_time
@given(st.sampled_from(places(DEFAULTS)), json_values)
def test_any_value_at_any_place_of_a_configuration(place, value):
    config = refused_or(lambda: Config.from_json(changed(DEFAULTS, place, value), "config.json"))
    if config is not None:
        assert Config.from_json(config.to_json(), "config.json") == config


@some_time
@given(st.dictionaries(st.sampled_from([*Config.defaults(), "widht", ""]), json_values | numbers, max_size=3))
def test_any_fields_by_name(fields):
    config = refused_or(lambda: Config.preset(**fields))
    if config is not None:
        assert Config.from_flat(config.flat()) == config


@some_time
@given(st.text(max_size=60) | st.binary(max_size=60) | st.dictionaries(st.text(max_size=8), json_values).map(yaml.dump))
def test_any_yaml(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    refused_or(lambda: Config.read(path))
    refused_or(lambda: read_grid(path))


@some_time
@given(st.sampled_from(places(GRID)), json_values)
def test_any_value_at_any_place_of_a_grid(tmp_path, place, value):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(changed(GRID, place, value)))
    refused_or(lambda: read_grid(path))
