"""Which configurations are refused, in which words: numbers that no run can use, and parts that do not go together."""

from __future__ import annotations

import re
from itertools import combinations, product
from typing import Any

import pytest
import torch

from inference.objectives import OBJECTIVES
from inference.runs.build_trainer import build_trainer
from inference.runs.config import Config
from inference.runs.presets import preset_of_choice
from inference.runs.score import quantize
from kpp_pyro.errors import InputError
from kpp_pyro.networks import EPISODE_ENCODERS
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.priors import KEY_PRIORS, LATENT_PRIORS, MEMORY_PRIORS
from kpp_pyro.writes import WRITES
from models.build import build
from models.registry import MODELS
from tests.experiments.running import refused, run
from tests.programs import IMAGE_SHAPE, RandomEpisodes, small_config

VAE, DKM = {"model": "vae"}, {"model": "dynamic_kanerva_machine"}
LEARNED = {"write": "feed_forward"}
MEAN_FIELD = {"objective": "mean_field"}
RANDOM = {"memory_prior": "standard_normal", "memory_guide": "normal"}
READ, IN_ORDER = {"latent_prior": "read"}, {"read_order": "sequence"}
OTHERS = [model for model in MODELS if model != "kanerva_plus_plus"]
SENTENCE = re.compile(r"--([a-z-]+): expected \S[^\n]*, found \S[^\n]*")


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# fmt: off
SHARED = (
    "--{}: expected none where {} reads of an episode share 32 blocks, which then hold means, "
    "found {}"
)
IDLE = "--{}: expected {}, its default, with --model {}, which does not use it, found {}"
CONFLICTS: list[tuple[dict[str, Any], str]] = [
    ({"key_guide": "flow"},
     "--key-guide: expected mean_field, its default, with --write allocate, whose keys point at blocks, found flow"),
    ({"key_prior": "vamp"},
     "--key-prior: expected a prior that does not use the guide's keys with --write allocate, found vamp"),
    ({"write": "allocate_by_content", "key_guide": "low_rank"},
     "--key-guide: expected mean_field, its default, with --write allocate_by_content, whose keys point at blocks, "
     "found low_rank"),
    ({"model": "pseudo_inverse_memory", "key_prior": "vamp"},
     "--key-prior: expected a prior that does not use the guide's keys with --model pseudo_inverse_memory, found "
     "vamp"),
    ({"latent_prior": "standard_normal", "latent_context": "image_and_read"},
     "--latent-context: expected image, since nothing is read, found image_and_read"),
    (LEARNED | MEAN_FIELD | {"key_prior": "flow"},
     "--key-prior: expected a normal with --objective mean_field, which needs KLs in closed form, found flow"),
    (LEARNED | MEAN_FIELD | {"key_guide": "flow"},
     "--key-guide: expected a normal with --objective mean_field, which needs KLs in closed form, found flow"),
    (MEAN_FIELD | {"latent_guide": "flow"},
     "--latent-guide: expected a normal with --objective mean_field, which needs KLs in closed form, found flow"),
    (MEAN_FIELD | {"key_prior": "learned_gaussian"},
     "--key-prior: expected a standard normal with --objective mean_field, for keys that point at blocks, found "
     "learned_gaussian"),
    ({"objective": "dreg", "latent_context": "image_and_read"},
     "--latent-context: expected image with --objective dreg, which needs independent draws, found "
     "image_and_read"),
    ({"particles": 2}, "--particles: expected 1 with --objective trace, found 2"),
    (MEAN_FIELD | {"particles": 8}, "--particles: expected 1 with --objective mean_field, found 8"),
    ({"objective": "iwae", "renyi_alpha": 0.25},
     "--renyi-alpha: expected 0.5, its default, with --objective iwae, which does not use it, found 0.25"),
    ({"episode_encoder": "attention", "temporal_shift": 0.25},
     "--temporal-shift: expected 0.125, its default, with --episode-encoder attention, which does not use it, found "
     "0.25"),
    (VAE | {"latent_size": 1, "latent_guide": "flow"},
     "--latent-guide: expected one for latents of 1 scalar, found flow"),
    ({"memory_channels": 1, "block_height": 1, "block_width": 1, "latent_guide": "flow"},
     "--latent-guide: expected one for latents of 1 scalar, found flow"),
    (DKM | {"memory_rows": 1, "key_prior": "flow"},
     "--key-prior: expected one for keys of 1 scalar, found flow"),
    *(({"model": model, "key_size": 1, "key_guide": "flow"},
       "--key-guide: expected one for keys of 1 scalar, found flow") for model in ("kanerva_machine", "two_layer_vae")),
    ({"episode_encoder": "attention", "width": 30},
     "--width: expected a multiple of 4 with --episode-encoder attention, found 30"),
    ({"networks": "conv", "width": 24}, "--width: expected a multiple of 16 with --networks conv, found 24"),
    ({"image_size": 32},
     "--image-size: expected 28, its default, with --dataset digits, whose images have their own size, found 32"),
    ({"dark_on_light": True},
     "--dark-on-light: expected False, its default, with --dataset digits, whose images are not your own, found True"),
    ({"test_share": 0.2},
     "--test-share: expected None, its default, with --dataset digits, whose images are not your own, found 0.2"),
    *(({"write": write, "latent_size": 7},
       f"--latent-size: expected the 100 scalars of a read with --write {write}, found 7") for write in WRITES),
    *(({"write": write, "latent_size": 100, "signs_per_scalar": 4},
       f"--latent-size: expected the 400 packed latents of a read with --write {write}, found 100")
      for write in WRITES),
    ({"signs_per_scalar": 16, "memory_width": 65, "block_width": 1},
     "--signs-per-scalar: expected fewer for a memory of 65 pixels along a side, where reads round positions, found "
     "16"),
    ({"signs_per_scalar": 16, "signs_per_latent": 3},
     "--signs-per-latent: expected a divisor of --signs-per-scalar 16, found 3"),
    ({"signs_per_latent": 2}, "--signs-per-latent: expected 1 without --signs-per-scalar, found 2"),
    ({"signs_per_scalar": 1, "episode_length": 33}, SHARED.format("signs-per-scalar", 33, 1)),
    (LEARNED | {"signs_per_scalar": 16, "reads": 2}, SHARED.format("signs-per-scalar", 64, 16)),
    ({"memory_guide": "normal"},
     "--memory-guide: expected point with --memory-prior flat, to which no density has a KL, found normal"),
    ({"memory_prior": "autoregressive"},
     "--memory-guide: expected normal with --memory-prior autoregressive: a point has no KL to it, found point"),
    ({"kl_memory_weight": 0.5},
     "--kl-memory-weight: expected 1.0, its default, with --memory-guide point, whose memory has no KL, found 0.5"),
    ({"kl_memory_start": 0.5},
     "--kl-memory-start: expected None, its default, with --memory-guide point, whose memory has no KL, found 0.5"),
    *((RANDOM | {"write": write},
       f"--memory-prior: expected flat with --write {write}, whose blocks are not in the order of the images, found "
       "standard_normal") for write in WRITES if write != "allocate"),
    *((RANDOM | {name: value},
       f"{flag_of(name)}: expected {expected} with --memory-prior standard_normal, whose memory is random, "
       f"found {value}")
      for name, expected, value in (("reads", 1, 2), ("signs_per_scalar", "none", 4), ("content_steps", 0, 3),
                                    ("training_content_steps", 0, 3))),
    (RANDOM | {"episode_length": 33},
     "--episode-length: expected at most 32, the blocks of the memory, with --memory-prior standard_normal, found 33"),
    (RANDOM | MEAN_FIELD | {"memory_prior": "autoregressive"},
     "--memory-prior: expected one with a closed KL with --objective mean_field, found autoregressive"),
    *((READ | {name: value},
       f"{flag_of(name)}: expected {expected}, its default, with --latent-prior read, whose latents are what is read, "
       f"found {value}")
      for name, expected, value in (("latent_guide", "mean_field", "flow"), ("signs_per_scalar", "none", 4),
                                    ("latent_context", "image", "image_and_read"))),
    *((READ | IN_ORDER | {"objective": objective},
       "--objective: expected trace or mean_field where an image has neither a key nor a latent of its own, found "
       f"{objective}") for objective in ("iwae", "dreg", "renyi")),
    *((IN_ORDER | {"write": write},
       f"--read-order: expected any with --write {write}, whose blocks are not in the order of the images, found "
       "sequence") for write in WRITES if write != "allocate"),
    (IN_ORDER | {"reads": 2},
     "--read-order: expected any where 64 reads of an episode share 32 blocks, which then hold means, found sequence"),
    *((IN_ORDER | {name: value},
       f"{flag_of(name)}: expected {expected}, its default, with --read-order sequence, in which images have no keys, "
       f"found {value}")
      for name, expected, value in (("key_prior", "standard_normal", "flow"), ("kl_key_start", 1.0, 0.5))),
    ({"memory_width": 42},
     "memory 20x42 (height x width): expected whole multiples of the block 5x5, since blocks are allocated side by "
     "side"),
]
IDLE_FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("kanerva_plus_plus", {"write_passes": 2, "pseudo_inverse_steps": 30, "memory_rows": 64, "key_size": 16}),
    ("kanerva_machine", {"write_passes": 2, "pseudo_inverse_steps": 30}),
    ("dynamic_kanerva_machine", {"key_guide": "low_rank", "key_size": 16, "pseudo_inverse_steps": 30}),
    ("pseudo_inverse_memory", {"key_guide": "low_rank", "key_size": 16, "write_passes": 2}),
    ("vae", {"key_guide": "flow", "key_prior": "learned_gaussian", "kl_key_start": 0.5, "memory_rows": 64,
             "content_steps": 5, "training_content_steps": 5,
             "latent_context": "image_and_read", "kl_memory_weight": 0.5, "kl_memory_start": 0.1,
             "key_size": 16, "write_passes": 2, "pseudo_inverse_steps": 30}),
    ("two_layer_vae", {"memory_rows": 64, "content_steps": 5, "training_content_steps": 5,
                       "kl_memory_weight": 0.5, "kl_memory_start": 0.1,
                       "write_passes": 2, "pseudo_inverse_steps": 30}),
    *((model, {"write": "feed_forward", "reads": 2, "memory_channels": 5, "memory_height": 10, "memory_width": 50,
               "block_height": 4, "block_width": 4, "latent_prior": "standard_normal", "signs_per_scalar": 4,
               "signs_per_latent": 2, "memory_prior": "autoregressive", "memory_guide": "normal",
               "read_order": "sequence"})
      for model in OTHERS),
]
# fmt: on
IDLE_EACH = [(model, name, value) for model, fields in IDLE_FIELDS for name, value in fields.items()]
AT_LEAST_ONE = (
    *("episode_length", "classes_per_episode", "workers", "image_size", "latent_size"),
    *("memory_rows", "key_size", "write_passes", "pseudo_inverse_steps"),
    *("memory_channels", "memory_height", "memory_width", "block_height", "block_width", "reads", "signs_per_latent"),
    *("width", "depth", "steps", "episodes_per_step", "evaluate_every", "particles"),
)
FROM_ZERO = (
    "seed",
    "encoder_steps",
    "content_steps",
    "training_content_steps",
    "warmup_steps",
    "kl_begin_step",
    "kl_ramp_steps",
)
MOST = {"encoder_steps": 100, "content_steps": 10**4, "training_content_steps": 10**4} | dict.fromkeys(
    FROM_ZERO[4:], 10**9
)
NOT_NEGATIVE = ("weight_decay", "kl_key_start", "kl_latent_start", "kl_memory_weight", "kl_memory_start")
CHOICES = {
    "model": MODELS,
    "write": WRITES,
    "objective": OBJECTIVES,
    "episode_encoder": EPISODE_ENCODERS,
    "memory_prior": MEMORY_PRIORS,
    "read_order": ("any", "sequence"),
    "key_prior": KEY_PRIORS,
    "latent_prior": LATENT_PRIORS,
    "key_guide": POSTERIORS,
    "latent_guide": POSTERIORS,
    "latent_context": ("image", "image_and_read"),
    "particles": (1, 4),
    "renyi_alpha": (0.5, 0.25),
    "temporal_shift": (0.125, 0.25),
}


def refusal(**changes: object) -> str:
    """The sentence in which a change of the defaults is refused."""
    with pytest.raises(InputError) as error:
        Config.from_flat(changes)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "sentence"), CONFLICTS, ids=[",".join(map(str, changes.values())) for changes, _ in CONFLICTS]
)
def test_parts_that_do_not_go_together_are_refused_in_a_sentence(changes, sentence):
    assert refusal(**changes) == sentence


@pytest.mark.parametrize(("model", "name", "value"), IDLE_EACH)
def test_what_a_model_has_no_use_for_is_refused(model, name, value):
    default = Config.defaults()[name]
    assert default != value
    assert refusal(model=model, **{name: value}) == IDLE.format(flag_of(name)[2:], default, model, value)


@pytest.mark.parametrize("model", [model for model in MODELS if model != "kanerva_plus_plus"])
def test_a_layout_that_a_model_has_no_use_for_is_that_of_the_data_set_or_the_default(model):
    refused = "--block-width: expected 10, its default, with --model {}, which does not use it, found {}"
    for width in (4, Config.defaults()["block_width"]):  # the default of other data sets would change the latents
        with pytest.raises(InputError) as error:
            Config.preset(dataset="cifar10", model=model, block_width=width)
        assert str(error.value) == refused.format(model, width)
    assert Config.preset(dataset="cifar10", model=model).memory.read_size == 800


def test_every_field_that_some_model_has_no_use_for_is_refused_above():
    for model, kind in MODELS.items():
        idle = set().union(*(other.settings for other in MODELS.values())) - kind.settings
        assert idle == {name for of, name, _ in IDLE_EACH if of == model}


def test_every_two_choices_go_together_or_one_of_them_is_named():
    standard, refusals = Config().flat(), 0
    changed = [(name, choice) for name, choices in CHOICES.items() for choice in choices if choice != standard[name]]
    for both in combinations(changed, 2):
        changes = dict(both)
        try:
            Config.from_flat({**preset_of_choice("memory_prior", changes.get("memory_prior")), **changes})
        except InputError as error:
            refusals += 1
            found = SENTENCE.fullmatch(str(error))
            assert found, str(error)
            assert found[1].replace("-", "_") in changes, (changes, str(error))
    assert refusals > 50


def test_memories_with_a_prior_that_are_not_refused_take_a_step():
    """Every combination of priors and read orders, with a bound of one draw of each image and with one of several."""
    choices = {name: tuple(CHOICES[name]) for name in ("memory_prior", "read_order", "latent_prior")}
    choices["objective"], taken = ("trace", "iwae"), 0
    for chosen in product(*choices.values()):
        changes = dict(zip(choices, chosen, strict=True))
        try:
            config = small_config(**changes, episode_length=4, episodes_per_step=2)
        except InputError as error:
            assert SENTENCE.fullmatch(str(error))
            continue
        pair = build(config, IMAGE_SHAPE)
        before = [parameter.clone() for parameter in pair.parameters()]
        trainer = build_trainer(config, pair, RandomEpisodes(images=4))
        assert trainer.train_step().loss.isfinite()
        assert sum(not torch.equal(*values) for values in zip(before, pair.parameters(), strict=True)) > 2
        taken += 1
    assert taken == 2 * 3 * 2 * 3 - 3  # without particles of images that have no draws of their own


@pytest.mark.parametrize("name", AT_LEAST_ONE)
def test_counts_are_at_least_one(name):
    assert refusal(**{name: 0}) == f"{flag_of(name)}: expected at least 1, found 0"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.0, "more than 0.0, found 0.0"),
        (-1.0, "more than 0.0, found -1.0"),
        (float("inf"), "a finite number, found inf"),
        (float("nan"), "a finite number, found nan"),
    ],
)
def test_the_learning_rate_is_positive_and_finite(value, sentence):
    assert refusal(learning_rate=value) == f"--learning-rate: expected {sentence}"


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_the_order_of_the_renyi_bound_is_finite(value):
    assert refusal(objective="renyi", renyi_alpha=value) == f"--renyi-alpha: expected a finite number, found {value}"


@pytest.mark.parametrize("name", FROM_ZERO)
def test_steps_are_not_negative_and_not_beyond_all_bounds(name):
    assert refusal(**{name: -1}) == f"{flag_of(name)}: expected at least 0, found -1"
    most = MOST.get(name)
    bound = f"less than {2**63}" if most is None else f"at most {most}"
    assert refusal(**{name: 2**63}) == f"{flag_of(name)}: expected {bound}, found {2**63}"


def test_every_whole_number_has_a_bound():
    numbers = [name for name, value in Config().flat().items() if type(value) is int and name != "seed"]
    assert len(numbers) > 20
    for name in numbers:
        assert refusal(**{name: 10**12}).startswith(f"{flag_of(name)}: expected at most ")


@pytest.mark.parametrize("name", NOT_NEGATIVE)
def test_weights_are_not_negative_and_finite(name):
    assert refusal(**{name: -1.0}) == f"{flag_of(name)}: expected at least 0.0, found -1.0"
    assert refusal(**{name: float("inf")}) == f"{flag_of(name)}: expected a finite number, found inf"
    if name.startswith("kl_"):
        assert refusal(**{name: 1e30}) == f"{flag_of(name)}: expected at most 1000.0, found 1e+30"


@pytest.mark.parametrize(("value", "sentence"), [(-1, "at least 1"), (0, "at least 1"), (17, "at most 16")])
def test_signs_are_one_to_sixteen_to_a_scalar(value, sentence):
    assert refusal(signs_per_scalar=value) == f"--signs-per-scalar: expected {sentence}, found {value}"


@pytest.mark.parametrize(("value", "sentence"), [(0.6, "at most 0.5"), (-0.1, "at least 0.0")])
def test_a_shift_is_of_at_most_half_of_the_channels(value, sentence):
    changes = {"episode_encoder": "temporal_shift", "temporal_shift": value}
    assert refusal(**changes) == f"--temporal-shift: expected {sentence}, found {value}"


@pytest.mark.parametrize("side", [12, 30, 68])
def test_images_have_sides_that_every_network_can_halve_twice(side):
    expected = "--image-size: expected sides that are multiples of 4 from 16 to 64 pixels"
    assert refusal(dataset="folder", image_size=side) == f"{expected}, found {side}x{side} (height x width)"


def refusal_of_rounding(changes: dict[str, object], bits: int, pair: object = None) -> str:
    with pytest.raises(InputError) as error:
        quantize(Rounded(Config.from_flat(changes), pair), bits)
    return str(error.value)


class Rounded:
    """As much of a run as rounding looks at."""

    def __init__(self, config: Config, pair: object) -> None:
        self.config, self.pair = config, pair


@pytest.mark.parametrize("bits", [-1, 0, 17])
def test_bits_are_one_to_sixteen(bits):
    assert refusal_of_rounding({}, bits) == f"--content-bits: expected 1 to 16, or none, found {bits}"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        *(({"model": model}, f"--content-bits: expected none with --model {model}, which does not use it, found 5")
          for model in OTHERS),
        ({"signs_per_scalar": 4},
         "--content-bits: expected none with --signs-per-scalar, which sets the bits, found 5"),
        (RANDOM, "--content-bits: expected none with --memory-guide normal, whose memory is random, found 5"),
        ({"episode_length": 33}, SHARED.format("content-bits", 33, 5)),
        (LEARNED | {"episode_length": 33}, SHARED.format("content-bits", 33, 5)),
        ({"write": "allocate_by_content", "reads": 2}, SHARED.format("content-bits", 64, 5)),
    ],
)  # fmt: skip
def test_what_cannot_be_rounded_is_refused_in_a_sentence(changes, sentence):
    assert refusal_of_rounding(changes, 5) == sentence


@pytest.mark.parametrize("changes", [*({"write": write} for write in WRITES), {"episode_length": 32}])
def test_contents_that_have_a_block_of_their_own_may_be_rounded(changes):
    config = Config.from_flat({"width": 16, **changes})
    for bits in (2, 8, 16):
        pair = build(config, (1, 16, 16))
        quantize(Rounded(config, pair), bits)
        assert [rounding.bits for rounding in pair.guide.preparations] == [bits]


@pytest.mark.parametrize(
    "changes",
    [
        *({"write": write, "signs_per_scalar": 4, "content_steps": 3} for write in WRITES),
        {"signs_per_scalar": 1},
        {"signs_per_scalar": 16, "episode_length": 16, "reads": 2},
        {"memory_channels": 1, "block_height": 1, "block_width": 1, "signs_per_scalar": 2, "latent_guide": "flow"},
        {"signs_per_scalar": 4, "latent_context": "image_and_read"},
        {"signs_per_scalar": 12, "signs_per_latent": 3, "content_steps": 2},
    ],
)
def test_signs_go_with_all_else_that_knows_its_blocks(changes):
    assert changes.items() <= Config.from_flat(changes).flat().items()


@pytest.mark.parametrize(
    "changes",
    [
        *({"write": write, "content_steps": 3} for write in WRITES),
        *({"model": model, "content_steps": 3} for model in OTHERS if MODELS[model].has_memory),
    ],
)
def test_contents_that_are_latents_may_be_prepared(changes):
    assert Config.from_flat(changes).program.content_steps == 3


@pytest.mark.parametrize(("guide", "prior"), [*product(POSTERIORS, KEY_PRIORS)])
def test_a_learned_map_has_keys_of_any_prior_and_any_guide(guide, prior):
    program = Config.preset(write="feed_forward", key_guide=guide, key_prior=prior).program
    assert (program.key_guide, program.key_prior) == (guide, prior)


def test_the_script_refuses_with_the_sentence_and_leaves_nothing_behind(tmp_path):
    changes, sentence = CONFLICTS[0]
    flags = [f"{flag_of(name)}={value}" for name, value in changes.items()]
    process = run("svi_train.py", *flags, "--device=cpu", "--out", tmp_path / "run")
    assert refused(process) == f"error: {sentence}"
    assert process.stdout == ""
    assert not list(tmp_path.iterdir())
