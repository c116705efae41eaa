"""The public API: from a configuration to a run folder, and from there to scores and a memory that is used."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inference
import kpp_pyro
from inference import (
    Config,
    InputError,
    Memory,
    Pair,
    Run,
    TrainedMemory,
    build,
    corrupt,
    load,
    load_pretrained,
    pretrained_names,
    read_pictures,
    score,
    train,
)
from inference.importance.scoring import MEANINGS
from inference.runs.trainer import StepResult, Trainer
from kpp_pyro.files.run_folder import RunFolder
from models.registry import MODELS
from tests.experiments.running import without_figures
from tests.waiting import HANGS

SIDE, IMAGES = 16, 4
TINY = {"width": 16, "precision": "float32", "steps": 4, "evaluate_every": 2, "episodes_per_step": 2, "device": "cpu"}


def draw_pictures(folder: Path) -> Path:
    """A tree of small pictures to train and to test on."""
    random = np.random.default_rng(0)
    for split, number in (("train", 24), ("validation", 8), ("test", 10)):
        (folder / split).mkdir(parents=True)
        for index in range(number):
            pixels = (random.random((SIDE, SIDE)) < 0.3).astype(np.uint8) * 255
            Image.fromarray(pixels).save(folder / split / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def config(pictures: Path) -> Config:
    sizes = {"image_size": SIDE, "episode_length": IMAGES, "workers": 1}
    return Config.preset("folder", data_dir=pictures, **sizes, **TINY)


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with without_figures():
        return train(config, tmp_path_factory.mktemp("runs") / "pictures")


@pytest.fixture
def images(run: Run) -> torch.Tensor:
    return run.episodes.test.first()


def test_the_public_names_are_sorted_and_there():
    assert inference.__all__ == sorted(set(inference.__all__))
    for name in inference.__all__:
        assert getattr(inference, name).__doc__
        assert getattr(kpp_pyro, name) is getattr(inference, name)
    assert set(inference.__all__) <= set(dir(kpp_pyro))
    with pytest.raises(AttributeError, match="nobody"):
        _ = kpp_pyro.nobody


def test_what_importing_the_parts_costs_is_not_the_whole():
    parts = "import sys, kpp_pyro; assert not {'inference', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", f"{parts}; assert kpp_pyro.Config().seed == 0"], check=True, timeout=HANGS)


def test_training_leaves_a_run_folder(run, config):
    files = {path.name for path in run.folder.path.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoint.pt", "best.pt", "tensorboard"} <= files
    assert isinstance(run.pair, Pair) and not run.pair.training
    assert run.config == config.replace(data_dir=config.data.data_dir.resolve())
    logged = [json.loads(line) for line in (run.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if line["split"] == "validation"] == [2, 4]
    assert run.step == logged[-1]["step"] and logged[-1]["split"] == "test"


def test_a_run_is_opened_as_it_was_trained(run):
    opened = load(run.folder.path, "cpu")
    assert (opened.config, opened.step) == (run.config, run.step)
    theirs = run.pair.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in opened.pair.state_dict().items())
    assert opened.memory.fingerprint == run.memory.fingerprint
    assert load(run.folder.path, "cpu", content_steps=2).config.program.content_steps == 2


def interrupted_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C during a step."""
    take = Trainer.train_step

    def train_step(trainer: Trainer) -> StepResult:
        if trainer.step == steps - 1:
            signal.raise_signal(signal.SIGINT)
        return take(trainer)

    monkeypatch.setattr(Trainer, "train_step", train_step)


def test_training_that_is_interrupted_goes_on_as_if_nothing_had_been(run, config, tmp_path, monkeypatch):
    cut = tmp_path / "cut"
    with without_figures():
        with monkeypatch.context() as patch:
            interrupted_after(3, patch)
            with pytest.raises(KeyboardInterrupt, match=f"saved after step 3 in {cut}; resume=True goes on"):
                train(config, cut)
        resumed = train(config, cut, resume=True)
    assert resumed.memory.fingerprint == run.memory.fingerprint and resumed.step == run.step


def test_a_folder_that_holds_another_run_is_refused(run, config):
    with pytest.raises(InputError, match="expected a new folder, found a run"):
        train(config, run.folder.path)
    with pytest.raises(InputError, match="--steps: expected at least the 4 that "):
        train(config.replace(steps=3), run.folder.path, resume=True)


def test_training_is_of_the_seed_alone(run, config, tmp_path):
    torch.manual_seed(99)
    with without_figures():
        again = train(config, tmp_path / "again")
    assert again.memory.fingerprint == run.memory.fingerprint


def test_scores_are_of_the_images_asked_for_and_of_the_seed(run, images):
    before = torch.get_rng_state()
    found = score(run, particles=5, limit=6, progress=False).own.log_likelihood
    assert torch.equal(torch.get_rng_state(), before)
    assert found.shape == (6,) and found.isfinite().all() and (found < 0).all()
    assert torch.equal(score(run, particles=5, limit=6, progress=False).own.log_likelihood, found)
    assert not torch.equal(score(run, particles=5, limit=6, seed=1, progress=False).own.log_likelihood, found)
    assert score(run, particles=2, progress=False).own.log_likelihood.shape == (10,)
    validated = score(run, particles=2, split="validation", progress=False)
    assert validated.own.log_likelihood.shape == (8,) and validated.by_memory.keys() == {"own"}


def test_a_look_whether_scores_can_be_annealed_leaves_the_random_state(run):
    before = torch.get_rng_state()
    sentence = "temperatures: expected one normal to be all that is random of an image"
    with pytest.raises(InputError, match=f"^{sentence}, found key, latent$"):
        score(run, temperatures=2, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_controls_are_scored_beside_them(run):
    scores = score(run, particles=2, control_particles=2, limit=8, progress=False)
    assert scores.by_memory.keys() == MEANINGS.keys()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"particles": 0}, "particles: expected at least 1, found 0"),
        ({"particles": 10**9}, "particles: expected at most 1000000, found 1000000000"),
        ({"limit": 0}, "limit: expected at least 1, found 0"),
        ({"control_particles": -1}, "control_particles: expected at least 0, found -1"),
        ({"refine_steps": -1}, "refine_steps: expected at least 0, found -1"),
        ({"split": "train"}, "split: expected one of test or validation, found 'train'"),
    ],
)
def test_scores_of_nothing_are_refused(run, given, sentence):
    with pytest.raises(InputError) as error:
        score(run, progress=False, **given)
    assert str(error.value) == sentence


def test_a_memory_is_written_and_recalled_without_chance(run, images, tmp_path):
    before = torch.get_rng_state()
    memory = run.memory.write(images)
    cues = corrupt(images, "salt_and_pepper", 0.2, torch.Generator().manual_seed(1)).images
    reads = run.memory.recall(memory, cues, steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(run.memory, TrainedMemory) and isinstance(memory, Memory)
    assert len(reads) == 2 and reads[-1].images.shape == images.shape == (IMAGES, 1, SIDE, SIDE)
    assert ((reads[-1].images >= 0) & (reads[-1].images <= 1)).all()
    memory.save(tmp_path / "memory.safetensors")
    assert torch.equal(run.memory.load(tmp_path / "memory.safetensors").value, memory.value)


@pytest.mark.parametrize("model", [name for name, kind in MODELS.items() if kind.has_memory])
def test_writing_a_memory_leaves_the_random_state_alone_even_if_the_memory_is_drawn(model, images):
    pair = build(Config.preset(model=model, width=16), (1, SIDE, SIDE))
    memories = TrainedMemory(pair.model, pair.guide)
    before = torch.get_rng_state()
    memory = memories.write(images, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(memories.write(images, seed=3).value, memory.value)
    drawn = model != "kanerva_plus_plus"
    assert torch.equal(memories.write(images, seed=4).value, memory.value) != drawn


def test_pictures_of_ones_own_are_written(run, pictures):
    own = read_pictures(pictures / "test", run.memory.image_shape)
    assert own.shape == (10, 1, SIDE, SIDE)
    memory = run.memory.write(own[:IMAGES])
    assert run.memory.recall(memory, own[:IMAGES])[-1].images.shape == (IMAGES, 1, SIDE, SIDE)


def test_a_data_set_that_has_moved_is_found_where_it_is_said_to_be(run, tmp_path):
    path = tmp_path / "config" / "config.json"
    path.parent.mkdir()
    for file in ("best.pt", "config.json"):
        (path.parent / file).write_bytes((run.folder.path / file).read_bytes())
    content = json.loads(path.read_text())
    content["config"]["data"]["data_dir"] = str(tmp_path / "gone")
    path.write_text(json.dumps(content))
    images = run.episodes.test.first()
    lost = load(path.parent, "cpu")
    memory = lost.memory.write(images)  # needs no data
    assert torch.equal(memory.value, run.memory.write(images).value)
    with pytest.raises(InputError, match=str(tmp_path / "gone")):
        _ = lost.episodes
    moved = load(path.parent, "cpu", run.config.data.data_dir)
    assert torch.equal(moved.episodes.test.first(), images)
    found = score(moved, particles=2, limit=3, progress=False).own.log_likelihood
    assert torch.equal(found, score(run, particles=2, limit=3, progress=False).own.log_likelihood)


def test_a_data_set_of_other_images_is_refused(run):
    other = load(run.folder.path, "cpu", image_size=20)
    with pytest.raises(InputError, match=r"expected images of the run's shape \(1, 16, 16\), found \(1, 20, 20\)"):
        _ = other.episodes


def test_what_is_no_run_no_device_and_no_data_is_refused(run, config, tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}: expected a run folder with config.json, found none"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"^--device nothing: expected auto, cpu, cuda or cuda:NUMBER"):
        load(run.folder.path, "nothing")
    with pytest.raises(InputError, match=r"^--stepz: .*did you mean steps"):
        load(run.folder.path, "cpu", stepz=3)
    for wrong in ({"device": "nothing"}, {"data_dir": tmp_path / "nowhere"}, {"episode_length": 400}):
        with pytest.raises(InputError):
            train(config.replace(**wrong), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("model", [name for name, kind in MODELS.items() if not kind.has_memory])
def test_a_model_without_a_memory_can_be_scored_and_not_used(model, config, tmp_path):
    with without_figures():
        run = train(config.replace(model=model, latent_size=3), tmp_path / model)
    assert score(run, particles=2, limit=3, progress=False).own.log_likelihood.shape == (3,)
    sentence = f"{run.folder.path}: expected a run of a model with a memory, found --model {model}"
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        _ = run.memory


def test_a_pair_is_built_of_a_configuration_alone():
    pair = build(Config.preset(width=16), (1, SIDE, SIDE))
    assert isinstance(pair, Pair)
    with pytest.raises(InputError, match="image size: expected sides that are multiples of 4 from 16 to 64"):
        build(Config(), (1, 15, 15))


def test_pretrained_weights_are_opened_by_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained_names() == ["cifar10", "mazes32", "mnist", "mnist_encoder_steps", "omniglot"]
    run = load_pretrained("mnist", "cpu")
    assert run.folder.path == RunFolder(Path("runs/pretrained/mnist")).path
    assert run.memory.image_shape == (1, 28, 28)
    with pytest.raises(
        InputError, match="--pretrained mnst: expected one of cifar10, mazes32, mnist, mnist_encoder_steps, omniglot"
    ):
        load_pretrained("mnst")


def test_arguments_of_another_kind_get_a_sentence(run, tmp_path):
    images = run.episodes.test.first()
    memory = run.memory.write(images)
    wrong = {
        "^run: expected a Run, found 'runs/digits'$": lambda: score("runs/digits"),
        "^config: expected a Config, ": lambda: train("digits"),
        "^config: expected a PairConfig, ": lambda: build("digits", (1, 16, 16)),
        "^device: expected one of this machine, ": lambda: build(Config(), (1, 16, 16), "gpu"),
        "^image size: expected three whole numbers ": lambda: build(Config(), (16, 16)),
        "^out: expected the folder of a run ": lambda: train(Config(), resume=True),
        "^particles: expected a whole number, found 1.5$": lambda: score(run, particles=1.5),
        "^memory: expected a Memory, ": lambda: run.memory.recall(memory.value, images, 1),
        "^memory: expected floats of at most 1e.06, found ": lambda: run.memory.recall(
            Memory(memory.value * float("nan"), memory.author), images, 1
        ),
        "^keys: expected a Tensor, ": lambda: run.memory.read(memory, [0.0]),
        "^images: expected a Tensor, found None$": lambda: corrupt(None, "mask", 0.25),
        "^images: expected intensities from 0 to 1, ": lambda: corrupt(images * 255, "mask", 0.25),
        "^strength: expected a number, ": lambda: corrupt(images, "mask", "0.25"),
        r"^Config: expected parts, .*Config.preset\(steps=...\)": lambda: Config(steps=3),
    }
    for sentence, act in wrong.items():
        with pytest.raises(InputError, match=sentence):
            act()


def test_objects_of_a_run_are_shown_on_one_line(run):
    images = run.episodes.test.first()
    memory = run.memory.write(images)
    scores = score(run, limit=2, particles=2, progress=False)
    assert repr(memory) == f"Memory(shape={tuple(memory.value.shape)}, author='{memory.author[:8]}')"
    assert repr(run) == f"Run('{run.folder.path}', folder, allocate, step {run.step})"
    assert f"own {scores.own.log_likelihood.mean():.2f} ± " in repr(scores)


def test_a_program_names_an_episode_of_another_shape(run):
    images = run.episodes.test.first()
    for program in (run.pair.model, run.pair.guide):
        with pytest.raises(InputError, match=r"^episode: expected floats, such as images / 255, found torch.uint8$"):
            program(torch.zeros(1, 4, 1, 16, 16, dtype=torch.uint8))
        with pytest.raises(InputError, match=r"^episode: expected shape \(B, T, C, H, W\), found \(4, 1, 16, 16\);"):
            program(images)
    with pytest.raises(InputError, match=r"^episode: expected images \(1, 16, 16\), found \(1, 8, 16\)$"):
        run.pair.model(images[None, :, :, :8])


def test_a_run_goes_on_with_its_own_configuration_only(config, tmp_path):
    run = train(config, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"^config: expected seed 0 of the run .*, found 5$"):
        train(config.replace(seed=5), run.folder.path, resume=True)
    assert train(config.replace(episode_length=None), run.folder.path, resume=True).config == run.config  # T is open
    before = {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}
    content = json.loads(run.folder.config.read_text())
    run.folder.config.write_text(json.dumps({**content, "version": 1}))
    with pytest.raises(InputError, match="expected a run of version 2, found one of version 1"):
        train(config, run.folder.path, resume=True)
    run.folder.config.write_bytes(before[run.folder.config])
    assert before == {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}
