"""Which configurations are refused, in which words; which defaults are chosen; and runs of the version before."""

from __future__ import annotations

import dataclasses
import json
import re
from itertools import combinations, product
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from experiments.build import build_program, resolve
from experiments.config import Config, config_from_json, default_config, flat, replace_flat
from experiments.legality import require_legal, require_rounding, require_sensible
from experiments.programs import EPISODE_ENCODERS, MODELS, WRITES
from inference.objectives import OBJECTIVES
from kpp_pyro.errors import InputError
from kpp_pyro.key_priors import KEY_PRIORS
from kpp_pyro.posteriors import POSTERIORS
from tests.experiments.running import refused, run

CPU = {"device": "cpu"}
POINTERS = ("allocate", "allocate_by_content")  # whose keys choose blocks
VAE, DKM = {"model": "vae"}, {"model": "dynamic_kanerva_machine"}
LEARNED = {"write": "feed_forward"}
MEAN_FIELD = {"objective": "mean_field"}
SEMANTIC = {"semantic_reads": 0.25, "left_out": 2}
OTHERS = [model for model in MODELS if model != "kanerva_plus_plus"]
SENTENCE = re.compile(r"--([a-z-]+): expected \S[^\n]*, found \S[^\n]*")
# fmt: off
SHARED = (
    "--{}: expected none where {} reads of an episode share the memory's 32 blocks, which hold means then, "
    "found {}"
)
IDLE = "--{}: expected {}, its default, with --model {}, which has no use for it, found {}"
CONFLICTS = [
    ({"key_guide": "flow"},
     "--key-guide: expected mean_field with --write allocate, whose keys point at known blocks, found flow"),
    ({"key_prior": "vamp"},
     "--key-prior: expected a prior that is not made of the guide's keys with --write allocate, whose keys point at "
     "known blocks, found vamp"),
    ({"write": "allocate_by_content", "key_guide": "low_rank"},
     "--key-guide: expected mean_field with --write allocate_by_content, whose keys point at known blocks, found "
     "low_rank"),
    (DKM | {"key_guide": "low_rank"},
     "--key-guide: expected mean_field with --model dynamic_kanerva_machine, whose keys are solved for in a memory, "
     "found low_rank"),
    ({"model": "pseudo_inverse_memory", "key_prior": "vamp"},
     "--key-prior: expected a prior that is not made of the guide's keys with --model pseudo_inverse_memory, whose "
     "keys are solved for in a memory, found vamp"),
    (VAE | {"key_guide": "flow"}, "--key-guide: expected mean_field with --model vae, which has no keys, found flow"),
    (VAE | {"key_prior": "learned_gaussian"},
     "--key-prior: expected standard_normal with --model vae, which has no keys, found learned_gaussian"),
    (DKM | {"latent_prior": "standard_normal"},
     "--latent-prior: expected memory, the model's own prior, with --model dynamic_kanerva_machine, found "
     "standard_normal"),
    (VAE | {"latent_context": "image_and_read"},
     "--latent-context: expected image, since nothing is read, found image_and_read"),
    ({"latent_prior": "standard_normal", "latent_context": "image_and_read"},
     "--latent-context: expected image, since nothing is read, found image_and_read"),
    (LEARNED | MEAN_FIELD | {"key_prior": "flow"},
     "--key-prior: expected a normal with --objective mean_field, whose KLs are closed, found flow"),
    (LEARNED | MEAN_FIELD | {"key_guide": "flow"},
     "--key-guide: expected a normal with --objective mean_field, whose KLs are closed, found flow"),
    (MEAN_FIELD | {"latent_guide": "flow"},
     "--latent-guide: expected a normal with --objective mean_field, whose KLs are closed, found flow"),
    (MEAN_FIELD | {"key_prior": "learned_gaussian"},
     "--key-prior: expected standard_normal with --objective mean_field, for keys of blocks, found learned_gaussian"),
    ({"objective": "dreg", "latent_context": "image_and_read"},
     "--latent-context: expected image with --objective dreg, whose draws may not depend on each other, found "
     "image_and_read"),
    ({"particles": 2}, "--particles: expected 1 with --objective trace, found 2"),
    (MEAN_FIELD | {"particles": 8}, "--particles: expected 1 with --objective mean_field, found 8"),
    ({"objective": "iwae", "renyi_alpha": 0.25}, "--renyi-alpha: expected --objective renyi beside it, found iwae"),
    (VAE | LEARNED,
     "--write: expected no choice with --model vae, which writes in its own way, found feed_forward"),
    ({"episode_encoder": "attention", "temporal_shift": 0.125},
     "--temporal-shift: expected --episode-encoder temporal_shift beside it, found attention"),
    (VAE | {"latent_size": 1, "latent_guide": "flow"},
     "--latent-guide: expected no flow of a single number, as latents are, found flow"),
    ({"memory_channels": 1, "block_height": 1, "block_width": 1, "latent_guide": "flow"},
     "--latent-guide: expected no flow of a single number, as latents are, found flow"),
    (DKM | {"memory_rows": 1, "key_prior": "flow"},
     "--key-prior: expected no flow of a single number, as keys are, found flow"),
    ({"model": "kanerva_machine", "key_size": 1, "key_guide": "flow"},
     "--key-guide: expected no flow of a single number, as keys are, found flow"),
    ({"model": "vae", "memory_rows": 64}, IDLE.format("memory-rows", 32, "vae", 64)),
    ({"model": "kanerva_machine", "reads": 2}, IDLE.format("reads", 1, "kanerva_machine", 2)),
    ({"kl_memory_weight": 0.5}, IDLE.format("kl-memory-weight", 1.0, "kanerva_plus_plus", 0.5)),
    ({"model": "vae", "kl_key_start": 0.5}, IDLE.format("kl-key-start", 1.0, "vae", 0.5)),
    ({"episode_encoder": "attention", "width": 30},
     "--width: expected a multiple of 4 with --episode-encoder attention, found 30"),
    ({"image_size": 32},
     "--image-size: expected 28, its default, with --dataset digits, whose images have a size of their own, found 32"),
    ({"write_passes": 2}, IDLE.format("write-passes", 1, "kanerva_plus_plus", 2)),
    (VAE | {"content_steps": 5}, IDLE.format("content-steps", 0, "vae", 5)),
    (VAE | {"content_step_size": 0.5}, IDLE.format("content-step-size", 0.03, "vae", 0.5)),
    ({"signs_per_scalar": 8, "content_step_size": 0.5},
     "--content-step-size: expected 0.03, its default, with --signs-per-scalar, which are turned over, found 0.5"),
    ({"signs_per_scalar": 16, "memory_width": 65, "block_width": 1},
     "--signs-per-scalar: expected fewer for a memory of 65 pixels along a side, as reads round positions in it, found "
     "16"),
    ({"signs_per_scalar": 1, "episode_length": 33},
     SHARED.format("signs-per-scalar", 33, 1)),
    (LEARNED | {"signs_per_scalar": 16, "reads": 2},
     SHARED.format("signs-per-scalar", 64, 16)),
    (SEMANTIC | LEARNED,
     "--semantic-reads: expected 0 with --write feed_forward, whose keys are not restricted to blocks, found 0.25"),
    (SEMANTIC | {"reads": 2}, "--reads: expected 1 with --semantic-reads, found 2"),
    (SEMANTIC | {"latent_prior": "standard_normal"},
     "--latent-prior: expected memory with --semantic-reads, found standard_normal"),
    ({"semantic_reads": 0.25}, "--left-out: expected images to learn from beside --semantic-reads, found 0"),
    ({"left_out": 2}, "--left-out: expected 0 without --semantic-reads, found 2"),
    (SEMANTIC | {"objective": "dreg", "latent_context": "image"},
     "--objective: expected one whose draws may depend on each other with --semantic-reads, found dreg"),
    *((SEMANTIC | {"model": model}, IDLE.format("semantic-reads", 0.0, model, 0.25)) for model in OTHERS),
    *(({"model": model, "left_out": 2}, IDLE.format("left-out", 0, model, 2)) for model in OTHERS),
    *(({"model": model, "signs_per_scalar": 4}, IDLE.format("signs-per-scalar", None, model, 4)) for model in OTHERS),
]
# fmt: on
AT_LEAST_ONE = (
    *(
        "episode_length",
        "classes_per_episode",
        "workers",
        "latent_size",
        "memory_rows",
        "key_size",
        "write_passes",
        "pseudo_inverse_steps",
    ),
    *("width", "depth", "steps", "episodes_per_step", "evaluate_every", "particles"),
)
POSITIVE = ("smallest_scale", "content_step_size", "learning_rate", "gradient_norm")
NOT_NEGATIVE = (
    *("seed", "content_steps", "left_out", "weight_decay", "warmup_steps", "kl_memory_weight"),
    *(f"kl_{site}_{what}" for site in ("key", "latent") for what in ("start", "begin_step", "ramp_steps")),
)
CHOICES = {
    name: get_args(hint)
    for part in (hint for hint in get_type_hints(Config).values() if dataclasses.is_dataclass(hint))
    for name, hint in get_type_hints(part).items()
    if name
    in (
        *("model", "write", "objective", "episode_encoder"),
        *("key_prior", "latent_prior", "key_guide", "latent_guide", "latent_context"),
    )
}
MORE_CHOICES = {"particles": (1, 4), "renyi_alpha": (0.5, 0.25), "temporal_shift": (0.0, 0.125)}


def refusal(changes: dict[str, object], config: Config | None = None) -> str:
    with pytest.raises(InputError) as error:
        resolve(replace_flat(config or default_config(), {**CPU, **changes}))
    return str(error.value)


def refusal_of_rounding(changes: dict[str, object], bits: int) -> str:
    with pytest.raises(InputError) as error:
        require_rounding(replace_flat(default_config(), changes), bits)
    return str(error.value)


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize(
    ("changes", "sentence"), CONFLICTS, ids=[",".join(map(str, changes.values())) for changes, _ in CONFLICTS]
)
def test_parts_that_do_not_go_together_are_refused_in_a_sentence(changes, sentence):
    assert refusal(changes) == sentence


def test_every_two_choices_go_together_or_one_of_them_is_named():
    standard, refusals = flat(default_config()), 0
    changed = [(name, choice) for name, choices in (CHOICES | MORE_CHOICES).items() for choice in choices]
    for both in combinations(changed, 2):
        changes = {name: choice for name, choice in both if choice != standard[name]}
        try:
            resolve(replace_flat(default_config(), {**CPU, **changes}))
        except InputError as error:
            refusals += 1
            found = SENTENCE.fullmatch(str(error))
            assert found, str(error)
            assert found[1].replace("-", "_") in changes, (changes, str(error))
    assert refusals > 50


@pytest.mark.parametrize("name", AT_LEAST_ONE)
def test_counts_are_at_least_one(name):
    assert refusal({name: 0}) == f"{flag_of(name)}: expected at least 1, found 0"


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("name", POSITIVE)
def test_scales_and_rates_are_positive_and_finite(name, value):
    assert refusal({name: value}) == f"{flag_of(name)}: expected a positive, finite number, found {value}"


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_the_order_of_the_renyi_bound_is_finite(value):
    changes = {"objective": "renyi", "renyi_alpha": value}
    assert refusal(changes) == f"--renyi-alpha: expected a finite number, found {value}"


@pytest.mark.parametrize("name", NOT_NEGATIVE)
def test_weights_and_steps_are_not_negative(name):
    assert refusal({name: -1}) == f"{flag_of(name)}: expected a number from 0 to 2^63 - 1, found -1"


@pytest.mark.parametrize("bits", [-1, 0, 1, 17])
def test_bits_are_two_to_sixteen(bits):
    assert refusal_of_rounding({}, bits) == f"--content-bits: expected 2 to 16, or none, found {bits}"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        *(({"model": model}, f"--content-bits: expected none with --model {model}, which has no use for it, found 5")
          for model in OTHERS),
        ({"signs_per_scalar": 4},
         "--content-bits: expected none with --signs-per-scalar, which says the bits, found 5"),
        ({"episode_length": 33}, SHARED.format("content-bits", 33, 5)),
        (LEARNED | {"episode_length": 33}, SHARED.format("content-bits", 33, 5)),
        ({"write": "allocate_by_content", "reads": 2}, SHARED.format("content-bits", 64, 5)),
    ],
)  # fmt: skip
def test_what_cannot_be_rounded_is_refused_in_a_sentence(changes, sentence):
    assert refusal_of_rounding(changes, 5) == sentence


@pytest.mark.parametrize("changes", [*({"write": write} for write in WRITES), SEMANTIC, {"episode_length": 32}])
def test_contents_that_have_a_block_of_their_own_may_be_rounded(changes):
    for bits in (2, 8, 16):
        require_rounding(replace_flat(default_config(), changes), bits)


@pytest.mark.parametrize("signs", [-1, 0, 17])
def test_signs_are_one_to_sixteen_to_a_scalar(signs):
    assert refusal({"signs_per_scalar": signs}) == f"--signs-per-scalar: expected 1 to 16, or none, found {signs}"


@pytest.mark.parametrize("share", [-0.1, 1e-4, 0.49, 1.0, float("nan")])
def test_semantic_reads_leave_keys_for_what_was_written(share):
    sentence = f"--semantic-reads: expected 0, or a probability from 0.01 to 0.48, found {share}"
    assert refusal({"semantic_reads": share, "left_out": 2}) == sentence


@pytest.mark.parametrize(
    "changes",
    [
        *({"write": write, "signs_per_scalar": 4, "content_steps": 3} for write in WRITES),
        {"signs_per_scalar": 1},
        {"signs_per_scalar": 16, "episode_length": 16, "reads": 2},
        {"memory_channels": 1, "block_height": 1, "block_width": 1, "signs_per_scalar": 2, "latent_guide": "flow"},
        *(SEMANTIC | {"write": write, "objective": objective} for write in POINTERS for objective in OBJECTIVES
          if objective != "dreg"),
        SEMANTIC | {"semantic_reads": 0.48, "signs_per_scalar": 4, "latent_context": "image_and_read"},
        SEMANTIC | {"left_out": 31, "latent_guide": "flow", "content_steps": 3},
    ],
)  # fmt: skip
def test_signs_and_semantic_reads_go_with_all_else_that_knows_its_blocks(changes):
    resolve(replace_flat(default_config(), {**CPU, **changes}))


@pytest.mark.parametrize("write", WRITES)
def test_a_latent_of_another_size_than_a_block_s_signs_is_refused(write):
    config = replace_flat(default_config([f"--write={write}"]), {"latent_size": 100, "signs_per_scalar": 4})
    with pytest.raises(InputError) as error:
        build_program(config, (1, 16, 16), torch.device("cpu"))
    assert str(error.value) == f"--latent-size: expected the 400 signs of a read with --write {write}, found 100"


@pytest.mark.parametrize(
    "changes",
    [
        *({"write": write, "content_steps": 3} for write in WRITES),
        *({"model": model, "content_steps": 3} for model in MODELS if model not in ("vae", "kanerva_plus_plus")),
    ],
)
def test_contents_that_are_latents_may_be_prepared(changes):
    resolve(replace_flat(default_config(), {**CPU, **changes}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temporal_shift": 0.6}, "--temporal-shift: expected a share from 0 to 0.5, found 0.6"),
        (
            {"networks": "conv", "width": 24},
            "--width: expected a multiple of 16 for --networks conv (GroupNorm), found 24",
        ),
    ],
)
def test_what_networks_cannot_have_is_refused(changes, sentence):
    assert refusal(changes) == sentence


@pytest.mark.parametrize("write", WRITES)
def test_a_latent_of_another_size_than_a_block_is_refused(write):
    config = replace_flat(default_config([f"--write={write}"]), {"latent_size": 7})
    with pytest.raises(InputError) as error:
        build_program(config, (1, 16, 16), torch.device("cpu"))
    assert str(error.value) == f"--latent-size: expected the 100 scalars of a read with --write {write}, found 7"


def test_the_script_refuses_with_the_sentence_and_leaves_nothing_behind(tmp_path):
    changes, sentence = CONFLICTS[0]
    flags = [f"{flag_of(name)}={value}" for name, value in changes.items()]
    process = run("svi_train.py", *flags, "--device=cpu", "--out", tmp_path / "run")
    assert refused(process) == f"error: {sentence}"
    assert process.stdout == ""
    assert not list(tmp_path.iterdir())


def test_every_model_write_objective_and_encoder_has_legal_defaults():
    for model, write, objective, encoder in product(MODELS, WRITES, OBJECTIVES, EPISODE_ENCODERS):
        named = {"model": model, "write": write, "objective": objective, "episode_encoder": encoder}
        config = default_config([f"{flag_of(name)}={value}" for name, value in named.items()])
        assert named.items() <= flat(config).items()
        require_sensible(config)
        rival = model not in ("kanerva_plus_plus", "vae")
        if rival and objective == "dreg":  # which does not change the guide of its own accord
            assert refusal(named, config).startswith("--latent-context: expected image with --objective dreg, ")
        elif model == "kanerva_plus_plus" or write == Config().memory.write:
            require_legal(config)
        else:
            assert refusal(named, config).startswith(f"--write: expected no choice with --model {model}, ")
        assert config.training.particles == (1 if objective in ("trace", "mean_field") else 8)
        assert config.network.temporal_shift == (0.125 if encoder == "temporal_shift" else 0)
        context = "image_and_read" if rival else "image"
        own = {"pseudo_inverse_steps": 24} if model == "pseudo_inverse_memory" else {}
        assert config.program == dataclasses.replace(Config().program, model=model, latent_context=context, **own)


@pytest.mark.parametrize("flags", [*([f"--model={m}"] for m in MODELS), *([f"--write={w}"] for w in WRITES)])
def test_default_memories_hold_as_much_as_each_other_for_as_many_images(flags):
    config = default_config(flags)
    with torch.device("meta"):
        program = build_program(config, (1, 16, 16), torch.device("meta"))
    scalars = program.sizes()["memory_scalars"]
    assert scalars == (0 if config.program.model == "vae" else 3200)
    assert config.data.episode_length == 32
    rivals = config.program.model not in ("kanerva_plus_plus", "vae")
    assert config.training.kl_memory_weight == (0.0 if rivals else 1.0)  # of the conditional likelihood, like the paper


def written_by_the_version_before(config: Config) -> dict[str, object]:
    """Its config.json, with neither models to choose nor bounds of particles."""
    content = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    del content["program"], content["network"]["episode_encoder"]
    for name in ("particles", "renyi_alpha", "kl_memory_weight"):
        del content["training"][name]
    return content


def small_of(**changes: object) -> Config:
    return replace_flat(default_config(), {"width": 32, "precision": "float32", "seed": 3, **CPU, **changes})


@pytest.mark.parametrize("changes", [{}, {"temporal_shift": 0.125, "episode_encoder": "temporal_shift"}])
def test_a_run_of_the_version_before_is_the_same_program(changes):
    config = small_of(**changes)
    content = written_by_the_version_before(config)
    assert content["network"]["temporal_shift"] == changes.get("temporal_shift", 0)
    old = resolve(config_from_json(content, Path("config.json")))
    assert old.network.temporal_shift == config.network.temporal_shift
    episode = (torch.rand(2, 5, 1, 16, 16) < 0.4).float()
    programs = [build_program(c, (1, 16, 16), torch.device("cpu")) for c in (old, config)]
    ours, theirs = (program.state_dict() for program in programs)
    encodings = [program.guide.encode(episode).features for program in programs]
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(*encodings)


@pytest.mark.parametrize("prior", KEY_PRIORS)
@pytest.mark.parametrize("guide", POSTERIORS)
def test_a_learned_map_has_keys_of_any_prior_and_any_guide(guide, prior):
    require_legal(replace_flat(default_config(["--write=feed_forward"]), {"key_guide": guide, "key_prior": prior}))


def test_signs_are_trained_with_closed_kls_unless_another_objective_is_named():
    assert default_config(["--signs-per-scalar", "8"]).training.objective == "mean_field"
    assert default_config(["--signs_per_scalar=8"]).training.objective == "mean_field"
    assert default_config(["--signs-per-scalar", "8", "--objective", "trace"]).training.objective == "trace"
    assert default_config(["--signs-per-scalar", "None"]).training.objective == "trace"


def test_contents_that_are_not_rounded_may_be_stated_as_earlier_versions_did_and_others_not():
    content = json.loads(json.dumps(dataclasses.asdict(Config()), default=str))
    content["program"]["content_bits"] = None
    assert config_from_json(content, Path("config.json")).program == Config().program
    content["program"]["content_bits"] = 8
    with pytest.raises(InputError, match=r"config.json: expected the keys .* of this version, found content_bits too"):
        config_from_json(content, Path("config.json"))
