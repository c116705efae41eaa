"""Runs on a folder of pictures, from the command line."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

import kpp_pyro as kpp
from experiments.shared.script import run_main
from inference.processes import SINGLE_PROCESS, Processes
from inference.runs import training_run
from inference.runs.config import Config
from kpp_pyro.files.checkpoint import load_checkpoint
from tests.experiments.running import TINY, changed, refused, run, without_figures

FLAGS = changed(TINY, "--steps", 3, "--warmup-steps", 100, "--episode-length", 4, "--image-size", 16)
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.usefixtures("no_workers_of_others"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training pictures in three classes, one of them no picture, and 12 to test."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 120), ("test", 12)):
        for number in range(count):
            path = folder / split / "abc"[number % 3] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 256, (20, 30, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(path)
    (folder / "train" / "a" / "notes.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "straight"
    process = run("svi_train.py", "--dataset", "folder", "--data-dir", pictures, *FLAGS, "--workers", 1, "--out", out)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip().splitlines()[-1].startswith("Test ELBO ")
    return out


def test_a_run_on_a_folder_goes_on_with_other_workers_as_if_nothing_had_been(
    pictures: Path, finished: Path, tmp_path: Path
) -> None:
    flags = changed(FLAGS, "--steps", 1, "--workers", 2)
    with without_figures():
        stopped = run("svi_train.py", "--dataset", "folder", "--data-dir", pictures, *flags, "--out", tmp_path / "run")
        assert stopped.returncode == 0, stopped.stderr
        assert run("svi_train.py", "--resume", tmp_path / "run", "--steps", 3, "--workers", 1).returncode == 0
    straight, resumed = (load_checkpoint(folder / "checkpoint.pt") for folder in (finished, tmp_path / "run"))
    assert all(torch.equal(value, resumed["pair"][name]) for name, value in straight["pair"].items())


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("evaluate.py", ["--limit", 4, "--particles", 4, "--control-particles", 0, "--posterior-images", 0]),
        ("denoise.py", ["--limit", 4, "--steps", 1, "--corruption", "mask", "--strength", 0.25]),
        ("generate.py", ["--samples", 4, "--memories", 1, "--clean-up", 1]),
    ],
)
def test_scripts_look_at_a_run_on_a_folder(finished: Path, script: str, flags: list[object]) -> None:
    process = run(script, finished, *flags)
    assert process.returncode == 0, process.stderr
    assert "skipped unreadable picture" not in process.stderr or script == "generate.py"  # it alone needs train/


@pytest.mark.parametrize("damage", ["no train", "garbage"])
def test_a_folder_that_is_no_data_set_gets_one_sentence_and_leaves_nothing(tmp_path: Path, damage: str) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    for split in {"train", "test"} - {damage.removeprefix("no ")}:
        (data / split).mkdir(parents=True)
        for number in range(10):
            (data / split / f"{number}.png").write_text("garbage")
    sentence = refused(run("svi_train.py", "--dataset", "folder", "--data-dir", data, *FLAGS, "--out", out))
    assert f"{data / damage.removeprefix('no ')}: expected" in sentence or damage == "garbage"
    assert "expected" in sentence and str(data) in sentence and not out.exists()
    assert not multiprocessing.active_children()


def test_a_small_folder_of_dark_drawings_trains_and_is_scored(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "pictures" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (20, 20), 5 * number).save(path)
    out, flags = (
        tmp_path / "run",
        FLAGS[: FLAGS.index("--episode-length")] + FLAGS[FLAGS.index("--episode-length") + 2 :],
    )
    process = run(
        "svi_train.py", "--dataset", "folder", "--data", tmp_path / "pictures", *flags, "--dark-on-light", "--out", out
    )
    assert process.returncode == 0, process.stderr
    assert f"note: {tmp_path}/pictures: 26 training, 6 validation and 8 test images" in process.stderr
    assert f"note: episodes have 2 images: the validation split of {tmp_path}/pictures has only 6" in process.stderr
    config = Config.read(out)
    assert (config.data.episode_length, config.data.dark_on_light) == (2, True)
    assert kpp.load(out).episodes.test.episode_length == 2


def test_help_says_how_to_train_on_ones_own_pictures() -> None:
    shown = " ".join(run("svi_train.py", "--dataset", "folder", "--help").stdout.replace("│", " ").split())
    for words in (
        "--image-size",
        "--workers",
        "scaled and cropped",
        "train/ and test/",
        "class folders",
        "own pictures",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("dataset", "rank", "waits"), [("folder", 0, 0), ("folder", 1, 0), ("mnist", 0, 0), ("mnist", 1, 1)]
)
def test_only_what_may_be_downloaded_is_loaded_in_turns(
    monkeypatch: pytest.MonkeyPatch, dataset: str, rank: int, waits: int
) -> None:
    meetings, before = list[int](), list[int]()

    @contextmanager
    def sync_errors(_: Processes) -> Iterator[None]:
        yield
        meetings.append(rank)

    monkeypatch.setattr(Processes, "sync_errors", sync_errors)
    monkeypatch.setattr(training_run, "build_episodes", lambda *_: before.append(len(meetings)) or "episodes")
    run_of_two = object.__new__(training_run.TrainingRun)
    run_of_two.config, run_of_two.processes = Config(data={"dataset": dataset}), Processes(rank, 2)
    assert run_of_two._load_episodes(torch.device("cpu")) == "episodes"
    assert before == [waits] and len(meetings) == (1 if dataset == "folder" else 2)


def test_a_decoding_process_that_is_killed_during_a_step_gets_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: Processes) -> int:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    assert run_main(main, SINGLE_PROCESS) == 2
    sentence = "found that DataLoader worker (pid 7) is killed by signal: Killed; fewer --workers take less memory"
    assert capsys.readouterr().err == f"error: expected every process that decodes to go on, {sentence}\n"
