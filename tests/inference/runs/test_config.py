"""The configuration of a run: where its values come from, how it is kept, and what it says of a wrong one."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
import torch

from inference import Config, InputError, build
from inference.objectives import OBJECTIVES
from inference.runs.config_parts import spare_cores
from kpp_pyro.data import DATASETS
from kpp_pyro.files.run_folder import VERSION
from kpp_pyro.networks import EPISODE_ENCODERS, NETWORKS
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.priors import KEY_PRIORS, LATENT_PRIORS
from kpp_pyro.writes import WRITES
from models.config import NetworkConfig, Size
from models.registry import MODELS

SHAPE = (1, 16, 16)
NAMED = {
    "dataset": DATASETS,
    "model": MODELS,
    "write": WRITES,
    "key_prior": KEY_PRIORS,
    "latent_prior": LATENT_PRIORS,
    "key_guide": POSTERIORS,
    "latent_guide": POSTERIORS,
    "networks": NETWORKS,
    "episode_encoder": EPISODE_ENCODERS,
    "objective": OBJECTIVES,
}
BUILDS = [
    (dataset, write, model)
    for dataset, write, model in product(DATASETS, WRITES, MODELS)
    if model == "kanerva_plus_plus" or write == "allocate"
]


def refusal(**given: object) -> str:
    """The sentence in which what is given is refused."""
    with pytest.raises(InputError) as error:
        Config.preset(**given)
    return str(error.value)


def content_of(config: Config) -> dict[str, dict[str, object]]:
    """What a file has kept of a configuration."""
    return json.loads(json.dumps(config.to_json()))


def run_file(folder: Path, config: Config) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"version": VERSION, "config": config.to_json(), "sizes": {}}))
    return path


def test_nothing_given_is_the_digits():
    assert Config() == Config.preset() == Config.preset("digits")
    assert Config().flat() == Config.defaults()
    assert Config().data.dataset == "digits"


def test_fields_are_in_one_part_each():
    parts = [kind for field in Config.model_fields.values() if hasattr(kind := field.annotation, "model_fields")]
    names = [name for part in parts for name in part.model_fields]
    own = [name for name, field in Config.model_fields.items() if field.annotation not in parts]
    assert len({*names, *own}) == len(names) + len(own) == len(Config().flat())


def test_every_field_says_what_it_is():
    parts = [Config, *(field.annotation for field in Config.model_fields.values())]
    for part in parts:
        for name, field in getattr(part, "model_fields", {}).items():
            assert field.description or hasattr(field.annotation, "model_fields"), name


@pytest.mark.parametrize(("dataset", "write", "model"), BUILDS)
def test_a_configuration_survives_json(dataset, write, model):
    config = Config.preset(dataset, write=write, model=model, steps=12, seed=3)
    assert Config.from_json(content_of(config), "config.json") == config


def test_one_with_every_field_changed_survives_json():
    changes = {"data_dir": Path("elsewhere"), "classes_per_episode": 3, "signs_per_scalar": 4, "latent_size": 400}
    config = Config.preset("omniglot", **changes, kl_begin_step=7, learning_rate=1e-3, precision="bfloat16")
    assert Config.from_json(content_of(config), "config.json") == config
    assert config.flat().items() >= changes.items()


def test_the_file_of_a_run_is_read_with_changes_and_the_presets_of_changed_names(tmp_path):
    config = Config.preset("omniglot", write="feed_forward")
    path = run_file(tmp_path, config)
    assert Config.read(path) == Config.read(str(path)) == config
    changed = Config.read(path, dataset="mnist", steps=3)
    assert changed == config.replace(dataset="mnist", steps=3)
    assert not changed.data.augment and changed.network.preset == "small"


REMOVED = (("memory", "semantic_reads", 0.0, 0.48), ("training", "left_out", 0, 6))


@pytest.mark.parametrize(("part", "name", "off", "used"), REMOVED)
def test_a_run_of_before_is_read_unless_it_used_an_option_that_has_been_removed(tmp_path, part, name, off, used):
    config = Config.preset("omniglot", steps=7)
    path = run_file(tmp_path, config)
    content = json.loads(path.read_text())
    content["config"][part][name] = off
    path.write_text(json.dumps(content))
    assert Config.read(path) == config
    content["config"][part][name] = used
    path.write_text(json.dumps(content))
    option = f"--{name.replace('_', '-')}"
    sentence = f"expected a run without {option}, which has been removed, found {used}; train it again"
    with pytest.raises(InputError, match=f"^{path}: {sentence}$"):
        Config.read(path)


def test_a_yaml_file_of_fields_is_read_with_presets(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("dataset: omniglot\nsteps: 7\nclasses_per_episode: null\nlearning_rate: 1e-3\n")
    expected = Config.preset("omniglot", steps=7, learning_rate=1e-3)
    assert Config.read(path) == expected
    assert Config.read(path, steps=9) == expected.replace(steps=9)
    assert Config.read(path.rename(tmp_path / "mine.yml"), dataset="mnist").data.augment is False


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.json", None, r"expected the config.json of a run, found none \(No such file or directory\)"),
        ("none.yaml", None, r"expected a YAML file, found none \(No such file or directory\)"),
        ("other.json", "{}", "expected the config.json of a run, found no config"),
        ("other.json", "[", "expected the config.json of a run, found no JSON .*"),
        ("other.json", '{"config": 3}', "expected the config.json of a run, found 3 in place of a mapping for config"),
        (
            "other.json",
            '{"config": {"content_step_size": 1}}',
            "expected a run of version 2, found one of version 1; .*",
        ),
        ("other.json", '{"version": 2, "config": {"training": 3}}', "--training: expected a mapping, found 3"),
        (
            "other.json",
            '{"version": 2, "config": {"trainin": {}}}',
            r"--trainin: expected one of .*\(did you mean training\?\)",
        ),
        (
            "other.json",
            '{"version": 2, "config": {"training": {"stepz": 3}}}',
            r"--stepz: expected .*\(did you mean steps\?\)",
        ),
        ("other.json", '{"version": 2, "config": {"training": {"steps": 0}}}', "--steps: expected at least 1, found 0"),
        ("other.yaml", "- 3", "expected a mapping, found a list"),
        ("other.yaml", "{", "expected YAML, found .*"),
        ("other.yaml", "steps: 3\nsteps: 4", "expected each key once in the mapping of line 1, found steps twice"),
        ("own.yaml", "data: a.npy", r"--data: expected a field .*\(did you mean data_dir\?\)"),
        ("other.yaml", "stepz: 3", r"--stepz: expected .*\(did you mean steps\?\)"),
        ("other.yaml", "steps: many", "--steps: expected a whole number, found 'many'"),
    ],
)
def test_a_file_that_holds_no_configuration_is_named(tmp_path, name, content, sentence):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"^{path}: {sentence}$"):
        Config.read(path)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"steps": "many"}, "--steps: expected a whole number, found 'many'"),
        ({"steps": True}, "--steps: expected a value other than true or false, found True"),
        ({"learning_rate": False}, "--learning-rate: expected a value other than true or false, found False"),
        ({"learning_rate": None}, "--learning-rate: expected a number, found None"),
        ({"augment": 7}, "--augment: expected true or false, found 7"),
        ({"seed": 0.5}, "--seed: expected a whole number, found 0.5"),
        ({"precision": "float8"}, "--precision: expected one of auto, float32 or bfloat16, found 'float8'"),
        ({"preset": "huge"}, "--preset: expected one of tiny, small, medium or base, found 'huge'"),
        ({"preset": []}, "--preset: expected one of tiny, small, medium or base, found a list"),
        ({"networks": {}}, "--networks: expected a text, found a mapping"),
        ({"data_dir": 3}, "--data-dir: expected a path, found 3"),
        ({"classes_per_episode": 0}, "--classes-per-episode: expected at least 1, found 0"),
    ],
)
def test_values_of_another_kind_are_errors(given, sentence):
    assert refusal(**given) == sentence


@pytest.mark.parametrize(("name", "registry"), NAMED.items())
def test_a_name_that_is_not_registered_is_answered_with_the_nearest(name, registry):
    for known in registry:
        sentence = f"--{name.replace('_', '-')}: expected one of {', '.join(registry)}, found '{known}s' "
        assert refusal(**{name: f"{known}s"}) == f"{sentence}(did you mean {known}?)"
    assert refusal(**{name: "?"}).endswith(", found '?'")


@pytest.mark.parametrize(("name", "registry"), NAMED.items())
def test_a_name_registered_at_run_time_is_accepted(name, registry, monkeypatch):
    monkeypatch.setitem(registry, "my_own", registry[Config().flat()[name]])
    keys = {"write": "feed_forward"} if name == "key_guide" else {}  # of other writes, keys have no such guides
    config = Config.preset(**{name: "my_own", **keys})
    assert config.flat()[name] == "my_own"
    assert Config.from_json(content_of(config), "config.json") == config
    assert "my_own" in refusal(**{name: "nobody_s"})


def test_a_field_that_there_is_not_is_answered_with_the_nearest():
    expected = "expected a field of the configuration, found none of that name"
    assert refusal(stepz=3) == f"--stepz: {expected} (did you mean steps?)"
    assert refusal(qqq=3) == f"--qqq: {expected}"
    with pytest.raises(InputError, match=r"^--learn-rate: .* \(did you mean learning_rate\?\)$"):
        Config().replace(learn_rate=0.1)
    with pytest.raises(InputError, match=r"^--widht: expected one of networks, .* \(did you mean width\?\)$"):
        NetworkConfig(widht=3)


def test_parts_and_configurations_do_not_change():
    config = Config()
    with pytest.raises(InputError, match=r"^seed: expected config.replace\(seed=...\), .*, found an assignment$"):
        config.seed = 3
    with pytest.raises(InputError, match=r"^steps: expected config.replace\(steps=...\), .*, found an assignment$"):
        config.training.steps = 3
    assert config.replace(steps=3).training.steps == 3 and config.training.steps == 2500


def test_another_size_brings_its_width_and_depth_unless_they_are_given():
    config = Config.preset(width=33, depth=2)
    assert (config.network.width, config.network.depth) == (33, 2)
    assert (config.replace(steps=3).network.width, config.replace(steps=3).network.depth) == (33, 2)
    assert config.replace(preset="base").network == NetworkConfig(preset="base")
    assert config.replace(networks="conv").network == NetworkConfig(networks="conv")
    assert config.replace(preset="base", width=40).network == NetworkConfig(preset="base", width=40)


@pytest.mark.parametrize("networks", NETWORKS)
def test_sizes_grow(networks):
    sizes = []
    for preset in get_args(Size):
        with torch.device("meta"):
            pair = build(Config.preset(networks=networks, preset=preset), SHAPE, torch.device("meta"))
        sizes.append(sum(p.numel() for p in pair.parameters()))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(get_args(Size))


@pytest.mark.parametrize(("cores", "processes", "workers"), [(8, 1, 7), (8, 2, 3), (8, 8, 1), (2, 4, 1), (96, 2, 16)])
def test_processes_that_train_share_the_cores_for_decoding(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert spare_cores() == Config().data.workers == workers


def test_seeds_decide_the_parameters_and_nothing_outside_does():
    pairs = []
    for outside, seed in ((5, 1), (6, 1), (6, 2)):
        torch.manual_seed(outside)
        pairs.append(build(Config(seed=seed), SHAPE).state_dict())
    first, same, other = pairs
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("model", MODELS)
def test_building_leaves_the_random_state_alone(model):
    before = torch.get_rng_state()
    build(Config.preset(model=model, width=16), SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
