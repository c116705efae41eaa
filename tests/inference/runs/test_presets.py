"""Presets: what a choice sets beside itself, files that are all of use, and who has the last word."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch

from inference import Config, InputError, build
from inference.objectives import OBJECTIVES
from inference.runs.presets import PRESETS, preset_of, read_yaml
from kpp_pyro.data import DATASETS
from kpp_pyro.likelihoods import LIKELIHOODS
from kpp_pyro.networks import EPISODE_ENCODERS
from kpp_pyro.priors import MEMORY_PRIORS
from kpp_pyro.writes import WRITES
from models.config import MemoryConfig, ProgramConfig
from models.registry import MODELS

CHOSEN = {  # what presets are of
    **{"dataset": DATASETS, "model": MODELS, "memory_prior": MEMORY_PRIORS},
    **{"write": WRITES, "objective": OBJECTIVES},
}
FILES = {(path.parent.name, path.stem): read_yaml(path) for path in sorted(PRESETS.glob("*/*"))}
MATRIX = [name for name, kind in MODELS.items() if "memory_rows" in kind.settings]
SEES_READ = [*MATRIX, "two_layer_vae"]  # whose latents' posteriors depend on the read


@pytest.mark.parametrize("of", FILES, ids="-".join)
def test_every_file_is_of_a_registered_name_and_of_fields_that_it_changes(of):
    field, name = of
    chosen = 4 if name == "any" else name
    assert name == "any" or name in CHOSEN[field]
    standard = Config.defaults()
    assert FILES[of] and FILES[of].keys() <= standard.keys()
    assert all(value != standard[other] for other, value in FILES[of].items())
    assert Config.preset(**{field: chosen}).flat().items() >= {field: chosen, **FILES[of]}.items()


@pytest.mark.parametrize("path", sorted(PRESETS.with_name("runs").glob("*")), ids=lambda path: path.stem)
def test_every_file_of_a_run_is_a_configuration_with_the_fields_that_it_names(path):
    given = read_yaml(path)
    config = Config.read(path)
    assert given and config.flat().items() >= given.items()
    assert config == Config.preset(**given)


def test_presets_of_different_parts_set_the_same_field_only_for_the_layout_of_a_memory():
    for one, other in combinations(FILES, 2):
        both = set() if one[0] == other[0] else FILES[one].keys() & FILES[other].keys()
        assert {one[0], other[0]} == {"dataset", "write"} or not both, (one, other)
        assert both <= MemoryConfig.model_fields.keys(), (one, other)


def test_the_layout_of_a_write_wins_over_that_of_a_data_set():
    ours, writes = Config.preset("cifar10", write="feed_forward").flat(), FILES["write", "feed_forward"]
    assert ours.items() >= writes.items() and ours["networks"] == "patches"


def test_no_preset_chooses_another():
    for fields in FILES.values():
        assert not fields.items() & FILES.keys()


def test_defaults_give_way_to_presets_and_these_to_what_is_given():
    assert Config.defaults()["steps"] == 2500
    assert Config.preset("mnist").training.steps == 17000
    assert Config.preset("mnist", steps=2500).training.steps == 2500
    assert Config.preset("omniglot", augment=False).data.augment is False
    learned = Config.preset("mnist", write="feed_forward", memory_channels=50)
    assert learned.memory.memory_channels == 50  # given
    assert learned.memory.memory_height == 4  # of the write
    assert learned.network.width == 512  # of the data set's size
    assert learned.network.episode_encoder == "temporal_shift"
    assert Config.preset("mnist", preset="base").network.width == 2048
    assert Config.preset("mnist", width=40).network.width == 40


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ({}, {"dataset": "omniglot"}),
        ({"dataset": "omniglot"}, {"dataset": "digits"}),
        ({}, {"write": "feed_forward", "memory_channels": 50}),
        ({"write": "feed_forward"}, {"write": "allocate"}),
        ({"dataset": "mnist"}, {"objective": "iwae"}),
        ({"objective": "dreg"}, {"objective": "trace"}),
        ({}, {"signs_per_scalar": 4}),
        ({"signs_per_scalar": 4}, {"signs_per_scalar": None}),
        ({"dataset": "mnist"}, {"networks": "conv", "preset": "base", "width": 96}),
        ({"model": "kanerva_machine"}, {"model": "kanerva_plus_plus"}),
    ],
)
def test_a_changed_name_changes_what_its_preset_sets(before, change):
    assert Config.preset(**before).replace(**change) == Config.preset(**{**before, **change})


@pytest.mark.parametrize(
    ("before", "change", "particles"),
    [
        ({"objective": "iwae"}, {"signs_per_scalar": 4, "objective": "mean_field"}, 1),
        ({"signs_per_scalar": 4}, {"objective": "dreg"}, 8),
        ({"signs_per_scalar": 4, "objective": "dreg"}, {"signs_per_scalar": None}, 8),
    ],
)
def test_presets_of_a_preset_follow(before, change, particles):
    assert Config.preset(**before).replace(**change).training.particles == particles


def test_a_field_with_a_value_of_ones_own_stays():
    assert Config.preset("mnist", steps=7).replace(dataset="omniglot") == Config.preset("omniglot", steps=7)
    assert Config.preset(width=128).replace(networks="mlp").network.width == 128


def test_a_change_keeps_what_no_changed_preset_sets():
    config = Config.preset("mnist", steps=7, write="feed_forward", memory_channels=50)
    kept = config.replace(objective="iwae").flat()
    changed = {"objective": "iwae", "particles": 8}
    assert kept == {**config.flat(), **changed}


def test_what_is_not_chosen_is_not_looked_up():
    assert preset_of(Config.defaults()) == {}
    assert preset_of({**Config.defaults(), "objective": "iwae"}) == {"particles": 8}


@pytest.mark.parametrize(("dataset", "write"), [*product(DATASETS, WRITES)])
def test_presets_hold_at_most_3200_memory_scalars_and_800_an_image_for_colour(dataset, write):
    config = Config.preset(dataset, write=write)
    memory = config.memory
    assert (config.data.dataset, memory.write) == (dataset, write)
    most = 3200 if LIKELIHOODS[config.program.likelihood].levels == 2 else 32 * 800
    assert memory.memory_channels * memory.memory_height * memory.memory_width <= most
    assert config.data.images_per_episode == 32
    assert config.data.test_binarize == "static"


def test_every_model_write_objective_and_encoder_goes_together_by_its_presets():
    for model, write, objective, encoder in product(MODELS, WRITES, OBJECTIVES, EPISODE_ENCODERS):
        named = {"model": model, "write": write, "objective": objective, "episode_encoder": encoder}
        if model != "kanerva_plus_plus" and write != "allocate":
            with pytest.raises(InputError, match=f"^--write: expected allocate, its default, with --model {model}, "):
                Config.preset(**named)
        elif model in SEES_READ and objective == "dreg":  # which does not change the guide of its own accord
            with pytest.raises(InputError, match=r"^--latent-context: expected image with --objective dreg, "):
                Config.preset(**named)
        else:
            config = Config.preset(**named)
            assert named.items() <= config.flat().items()
            assert config.training.particles == (8 if OBJECTIVES[objective].takes_particles else 1)
            context = "image_and_read" if model in SEES_READ else "image"
            own = {"pseudo_inverse_steps": 24} if model == "pseudo_inverse_memory" else {}
            assert config.program == ProgramConfig(model=model, latent_context=context, **own)


@pytest.mark.parametrize("chosen", [*({"model": name} for name in MODELS), *({"write": name} for name in WRITES)])
def test_memories_hold_as_much_as_each_other_for_as_many_images(chosen):
    config = Config.preset(**chosen)
    with torch.device("meta"):
        pair = build(config, (1, 16, 16), torch.device("meta"))
    assert pair.sizes()["memory_scalars"] == (3200 if MODELS[config.program.model].has_memory else 0)
    assert config.data.images_per_episode == 32
    drawn = config.program.model in MATRIX
    assert config.training.kl_memory_weight == (0.0 if drawn else 1.0)  # of the conditional likelihood, like the paper


def test_signs_are_trained_with_closed_kls_unless_another_objective_is_named():
    assert Config.preset(signs_per_scalar=8).training.objective == "mean_field"
    assert Config.preset(signs_per_scalar=8, objective="trace").training.objective == "trace"
    assert Config.preset(signs_per_scalar=8, objective="iwae").training.particles == 8
    assert Config.preset(signs_per_scalar=None).training.objective == "trace"


def test_a_preset_of_a_name_that_is_registered_later_is_a_file_of_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("inference.runs.presets.PRESETS", tmp_path)
    monkeypatch.setitem(WRITES, "my_own", WRITES["allocate"])
    (tmp_path / "write").mkdir()
    (tmp_path / "write" / "my_own.yaml").write_text("reads: 2\n")
    assert Config.preset(write="my_own").memory.reads == 2
    assert Config.preset(write="my_own", reads=1).memory.reads == 1
    assert Config.preset().memory.reads == 1
