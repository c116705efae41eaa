from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import get_args

import pytest
import torch

from inference.runs.config import (
    Config,
    DatasetName,
    NetworkFamily,
    Preset,
    WriteName,
    _spare_cores,
    config_from_json,
    default_config,
    replace_flat,
)
from inference.runs.rules import require_sensible
from kpp_pyro.data import DATASETS
from kpp_pyro.errors import InputError
from models.build import build


def test_the_command_line_knows_every_data_set():
    assert set(get_args(DatasetName)) == {*DATASETS, "folder"}  # a folder's pictures stay on disk: no loader


@pytest.mark.parametrize("dataset", get_args(DatasetName))
@pytest.mark.parametrize("write", get_args(WriteName))
def test_defaults_are_sensible_and_hold_at_most_3200_memory_scalars(dataset, write):
    config = default_config([f"--dataset={dataset}", "--write", write])
    require_sensible(config)
    memory = config.memory
    assert (config.data.dataset, memory.write) == (dataset, write)
    assert memory.memory_channels * memory.memory_height * memory.memory_width <= 3200
    assert config.data.episode_length == 32
    assert config.data.test_binarize == "static"


@pytest.mark.parametrize("networks", get_args(NetworkFamily))
def test_presets_grow(networks):
    sizes = []
    for preset in get_args(Preset):
        config = default_config([f"--networks={networks}", f"--preset={preset}"])
        with torch.device("meta"):
            program = build(config, (1, 16, 16), torch.device("meta"))
        sizes.append(sum(p.numel() for p in (*program.model.parameters(), *program.guide.parameters())))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(get_args(Preset))


def test_a_configuration_survives_json():
    config = replace_flat(default_config(["--dataset", "omniglot"]), {"steps": 12, "seed": 3})
    content = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    assert config_from_json(content, Path("config.json")) == config


@pytest.mark.parametrize("part", [None, "training"])
def test_unknown_and_missing_keys_are_errors(part):
    content = json.loads(json.dumps(dataclasses.asdict(Config()), default=str))
    if part is None:
        del content["memory"]
    else:
        content[part]["surprise"] = 1
    with pytest.raises(InputError, match=r"config\.json: expected the key"):
        config_from_json(content, Path("config.json"))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("training", "steps", "many"),
        ("training", "steps", True),
        ("training", "learning_rate", None),
        ("memory", "write", "foo"),
        ("data", "augment", 1),
        (None, "precision", "float8"),
        (None, "seed", 0.5),
    ],
)
def test_values_of_another_kind_are_errors(part, name, value):
    content = json.loads(json.dumps(dataclasses.asdict(Config()), default=str))
    (content if part is None else content[part])[name] = value
    with pytest.raises(InputError, match=rf"config\.json: expected {name} to be "):
        config_from_json(content, Path("config.json"))


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"episode_length": 0}, "--episode-length"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"temporal_shift": 0.6}, "--temporal-shift"),
        ({"networks": "conv", "width": 12}, "--width"),
        ({"image_size": 30}, "--image-size"),
        ({"workers": 0}, "--workers"),
    ],
)
def test_numbers_that_no_run_can_use_are_refused(changes, flag):
    with pytest.raises(InputError, match=flag):
        require_sensible(replace_flat(default_config(), changes))


@pytest.mark.parametrize(("cores", "processes", "workers"), [(8, 1, 7), (8, 2, 3), (8, 8, 1), (2, 4, 1), (96, 2, 16)])
def test_processes_that_train_share_the_cores_for_decoding(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert _spare_cores() == workers


def test_seeds_decide_the_parameters():
    programs = [
        build(replace_flat(default_config(), {"seed": seed}), (1, 16, 16), torch.device("cpu")) for seed in (1, 1, 2)
    ]
    first, same, other = (program.model.decoder.network.stem.weight for program in programs)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
