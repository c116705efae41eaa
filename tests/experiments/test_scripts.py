"""Every script is smoke-run; a script that is not listed here fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import matplotlib.image
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import inference.runs.training_run
import kpp_pyro.plots
from inference import Config
from inference.runs.trainer import Trainer
from inference.runs.training_run import claimed_folder
from kpp_pyro.config_part import flag
from kpp_pyro.files.checkpoint import load_checkpoint, save_checkpoint
from kpp_pyro.files.claim import claimed
from tests.experiments.running import ROOT, TINY, Finished, changed, command, refused, run, trained, without_figures
from tests.waiting import HANGS

SCRIPTS = {
    "ablate.py",
    "explore.py",
    "svi_train.py",
    "denoise.py",
    "generate.py",
    "draw_figures.py",
    "compare_runs.py",
    "evaluate.py",
    "benchmark.py",
    "benchmark_scoring.py",
    "pack_weights.py",
    "recall.py",
}
FIGURES = {"reconstructions.png", "samples.png", "memory.png", "memory_at_work.png", "curves.png"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return folder, run("svi_train.py", *TINY, "--out", folder)


def metrics(folder: Path) -> list[dict[str, float | str]]:
    """Every line of metrics, without the seconds that no two runs share."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        for seconds in ("training_seconds", "data_wait_seconds"):
            assert (record.pop(seconds, None) is not None) == (record["split"] == "validation")
    return records


def test_every_script_is_listed_here():
    scripts = {path.name for path in (ROOT / "experiments").glob("*.py") if "__main__" in path.read_text()}
    assert scripts == SCRIPTS


def test_a_run_folder_holds_everything(finished):
    folder, process = finished
    assert process.returncode == 0, process.stderr
    assert {path.name for path in (folder / "figures").iterdir()} == FIGURES
    assert any((folder / "tensorboard").iterdir())
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["training"]["steps"] == 6
    assert config["environment"]["libraries"]["torch"] == version("torch")
    assert [(r["step"], r["split"]) for r in metrics(folder) if r["split"] != "train"][:2] == [
        (3, "validation"),
        (6, "validation"),
    ]
    assert not list(folder.glob(".*.partial"))
    for name in ("checkpoint.pt", "best.pt"):
        torch.load(folder / name, weights_only=True)
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 6


def test_the_last_line_states_what_the_metrics_file_holds(finished):
    folder, process = finished
    last = process.stdout.strip().splitlines()[-1]
    found = re.fullmatch(
        r"Test ELBO (-?[\d.]+) nats per image, memory gain (-?[\d.]+) nats per image, run folder (.+)", last
    )
    assert found, last
    (test,) = [record for record in metrics(folder) if record["split"] == "test"]
    assert float(found[1]) == pytest.approx(test["elbo_nats_per_image"], abs=0.01)
    assert float(found[2]) == pytest.approx(test["memory_gain_nats_per_image"], abs=0.01)
    assert Path(found[3]) == folder
    for unit in ("nats_per_image", "bits_per_dim"):
        kl = sum(value for name, value in test.items() if name.startswith("kl_") and name.endswith(unit))
        assert test[f"elbo_{unit}"] == pytest.approx(test[f"reconstruction_{unit}"] - kl)


def test_the_best_checkpoint_is_that_of_the_best_validation_elbo(finished):
    folder, _ = finished
    best = max((r for r in metrics(folder) if r["split"] == "validation"), key=lambda r: r["elbo_nats_per_image"])
    state = load_checkpoint(folder / "best.pt")
    assert state["step"] == best["step"]
    last = load_checkpoint(folder / "checkpoint.pt")
    assert last["best_elbo_nats_per_image"] == pytest.approx(best["elbo_nats_per_image"])


def test_the_memory_at_work_is_recorded_at_the_step_of_the_best_checkpoint(finished):
    found = EventAccumulator(str(finished[0] / "tensorboard")).Reload()
    (image,) = found.Images("memory_at_work")
    assert image.step == load_checkpoint(finished[0] / "best.pt")["step"]


def test_figures_are_drawn_again_pixel_for_pixel(finished):
    folder, _ = finished
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    for path in (folder / "figures").iterdir():
        path.unlink()
    process = run("draw_figures.py", folder)
    assert process.returncode == 0, process.stderr
    again = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert set(before) == FIGURES and again == before


def test_runs_are_compared_in_one_figure(finished, tmp_path):
    figure = tmp_path / "curves.png"
    assert run("compare_runs.py", finished[0], "--out", figure).stdout == f"{figure}\n"
    height, width, _ = matplotlib.image.imread(figure).shape
    assert width > height > 300
    assert "nowhere" in refused(run("compare_runs.py", tmp_path / "nowhere", "--out", figure))


def test_runs_on_images_of_other_kinds_have_panels_of_their_own(finished, tmp_path, monkeypatch):
    levels, drawn = trained(tmp_path / "levels", *TINY, "--likelihood", "discretized_logistic"), []
    short = trained(tmp_path / "short", *TINY, "--episode-length", 8)
    monkeypatch.setattr(kpp_pyro.plots, "plot_comparison", lambda metrics, _: drawn.append(metrics))
    again = shutil.copytree(finished[0], tmp_path / "again")
    assert run("compare_runs.py", finished[0], levels, again, short, "--out", tmp_path / "curves.png").returncode == 0
    kinds = {kind: list(runs) for kind, runs in drawn[0].items()}
    assert kinds == {
        "digits, T = 32\nbinary, 16 x 16 pixels": ["digits", "again"],
        "digits, T = 32\n256 levels, 16 x 16 pixels": ["levels"],
        "digits, T = 8\nbinary, 16 x 16 pixels": ["short"],
    }


def test_the_same_seed_gives_the_same_run(finished, tmp_path):
    first, second = finished[0], tmp_path / "again"
    with without_figures():
        assert run("svi_train.py", *TINY, "--out", second).returncode == 0
    assert_equal_states(load_checkpoint(first / "checkpoint.pt"), load_checkpoint(second / "checkpoint.pt"))
    assert metrics(first) == metrics(second)


def assert_equal_states(first: dict, second: dict) -> None:
    assert first["pair"].keys() == second["pair"].keys()
    for name, value in first["pair"].items():
        assert torch.equal(value, second["pair"][name]), name
    for own, other in zip(first["processes"], second["processes"], strict=True):
        assert torch.equal(own["random"]["cpu"], other["random"]["cpu"])


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """A function that has a signal reach this process in a certain step of the next training."""

    def signal_in(step: int, number: int) -> None:
        take = Trainer.train_step

        def signalling(trainer: Trainer) -> object:
            if trainer.step == step:
                monkeypatch.setattr(Trainer, "train_step", take)
                os.kill(os.getpid(), number)
            return take(trainer)

        monkeypatch.setattr(Trainer, "train_step", signalling)

    return signal_in


def test_ctrl_c_finishes_the_step_saves_and_says_so_and_the_run_goes_on_as_if_nothing_had_been(tmp_path, signalled):
    arguments = [*TINY[:4], "--steps", "60", "--evaluate-every", "60", "--warmup-steps", "20"]
    folder, straight = tmp_path / "stopped", tmp_path / "straight"
    signalled(51, signal.SIGINT)
    with without_figures():
        process = run("svi_train.py", *arguments, "--out", folder)
        assert process.returncode == 130
        stopped = load_checkpoint(folder / "checkpoint.pt")["step"]
        assert stopped == 52
        assert f"Interrupted after step {stopped}; saved" in process.stdout
        assert f"--resume {folder}" in process.stdout
        resumed = run("svi_train.py", "--resume", folder)
        assert resumed.returncode == 0, resumed.stderr
        assert run("svi_train.py", *arguments, "--out", straight).returncode == 0
    assert_equal_states(load_checkpoint(straight / "checkpoint.pt"), load_checkpoint(folder / "checkpoint.pt"))
    steps = [(r["step"], r["split"]) for r in metrics(folder)]
    assert len(steps) == len(set(steps))
    assert metrics(folder) == metrics(straight)


@pytest.mark.usefixtures("no_figures")
def test_sigterm_does_the_same_with_a_status_of_its_own(tmp_path, signalled):
    signalled(3, signal.SIGTERM)
    process = run("svi_train.py", *changed(TINY, "--steps", 20), "--out", tmp_path / "run")
    assert process.returncode == 143
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 4
    assert "Interrupted after step 4; saved" in process.stdout


def test_a_finished_run_is_extended_by_more_steps(finished, tmp_path):
    """Within the warm-up the schedule does not depend on the number of steps: 3 and 3 more equal 6."""
    arguments = [*TINY[:4], "--evaluate-every", "3", "--warmup-steps", "100"]
    straight, folder = tmp_path / "straight", tmp_path / "extended"
    with without_figures():
        assert run("svi_train.py", *arguments, "--steps", 6, "--out", straight).returncode == 0
        assert run("svi_train.py", *arguments, "--steps", 3, "--out", folder).returncode == 0
        assert run("svi_train.py", "--resume", folder, "--steps", 6).returncode == 0
    assert_equal_states(load_checkpoint(straight / "checkpoint.pt"), load_checkpoint(folder / "checkpoint.pt"))
    assert [r["split"] for r in metrics(folder)].count("test") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--dataset", "mnist"], "MNIST"),
        (["--dataset", "omniglot"], "chardata.mat"),
        (["--episode-length", "5000"], "--episode-length"),
        (["--classes-per-episode", "11"], "--classes-per-episode"),
        (["--memory-width", "41"], "20x41"),
        (["--latent-size", "7"], "--latent-size"),
        (["--steps", "0"], "--steps"),
        (["--temporal-shift", "0.7"], "--temporal-shift"),
        (["--device", "cuda:99"], "--device"),
        (["--resume", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(arguments, named, tmp_path):
    data = tmp_path / "data"
    data.write_text("a file where the folder of the data sets should be")
    place = ["--data-dir", data] if "--dataset" in arguments else []
    assert named in refused(run("svi_train.py", *arguments, *place, cwd=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_a_file_of_data_for_a_data_set_that_reads_none_is_refused(finished, tmp_path):
    (tmp_path / "config.yaml").write_text("data_dir: elsewhere\ndataset: digits\n")  # as the loggers record a run
    assert run("svi_train.py", "--config", tmp_path / "config.yaml", "--dry-run").returncode == 0
    for config in ([], ["--config", finished[0]], ["--config", tmp_path / "config.yaml"]):
        sentence = refused(run("svi_train.py", *config, "--data", "a.npy", cwd=tmp_path))
        assert sentence == (
            "error: --data-dir: expected none with --dataset digits, which reads no files, found a.npy; "
            "--dataset folder or array takes your own images"
        )


def test_a_resumed_run_takes_no_other_configuration(finished):
    sentence = refused(run("svi_train.py", "--resume", finished[0], "--learning-rate", "0.1"))
    assert "--learning-rate" in sentence
    assert "--steps" in sentence


def test_an_existing_run_is_not_overwritten(finished):
    folder, _ = finished
    before = (folder / "checkpoint.pt").read_bytes()
    assert "--resume" in refused(run("svi_train.py", *TINY, "--out", folder))
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_a_run_that_another_process_writes_is_left_alone(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with claimed(folder), claimed(tmp_path / "new"):
        for name, path in {"--resume": folder, "--out": tmp_path / "new"}.items():
            sentence = refused(run("svi_train.py", name, path))
            assert sentence == f"error: {name} {path}: expected a folder of this process, found one that another uses"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.usefixtures("no_figures")
def test_a_run_made_on_a_gpu_goes_on_without_one(finished, tmp_path):
    folder, of_cuda = shutil.copytree(finished[0], tmp_path / "run"), torch.arange(16, dtype=torch.uint8)
    content = json.loads((folder / "config.json").read_text())
    content["config"]["device"] = "cuda:9"
    (folder / "config.json").write_text(json.dumps(content))
    state = load_checkpoint(folder / "checkpoint.pt")
    state["processes"][0]["episodes"]["pixels"] = state["processes"][0]["random"]["cuda"] = of_cuda
    save_checkpoint(folder / "checkpoint.pt", state)
    process = run("svi_train.py", "--resume", folder, "--steps", 8)
    assert process.returncode == 0, process.stderr
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert json.loads((folder / "config.json").read_text())["config"]["device"] == device
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 8
    assert "note: this machine has no cuda:9; the run goes on with" in process.stderr
    assert "--device: expected one of this machine" in refused(
        run("svi_train.py", "--resume", folder, "--device", "cuda:9")
    )


def test_a_run_killed_before_its_first_checkpoint_begins_anew(finished, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / "run" / name).write_bytes((finished[0] / name).read_bytes() if name == "config.json" else b"")
    with without_figures():
        assert run("svi_train.py", "--resume", tmp_path / "run").returncode == 0
    states = [load_checkpoint(folder / "checkpoint.pt") for folder in (finished[0], tmp_path / "run")]
    assert_equal_states(*states)


def test_a_run_whose_best_parameters_are_lost_is_refused_before_it_goes_on(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (folder / "best.pt").unlink()
    before = (folder / "metrics.jsonl").read_bytes()
    assert str(folder / "best.pt") in refused(run("svi_train.py", "--resume", folder, "--steps", 8))
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_runs_of_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(inference.runs.training_run, "default_folder", lambda _: tmp_path / "runs" / "digits")
    with claimed_folder(Config()) as first, claimed_folder(Config()) as second:
        assert [folder.path.name for folder in (first, second)] == ["digits", "digits-2"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "foreign", "other_model"])
def test_a_damaged_or_foreign_checkpoint_is_refused(finished, tmp_path, damage):
    folder = tmp_path / "run"
    folder.mkdir()
    source, path = finished[0], folder / "checkpoint.pt"
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    (folder / "metrics.jsonl").write_bytes((source / "metrics.jsonl").read_bytes())
    whole = (source / "checkpoint.pt").read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "foreign":
        path.write_text("not a checkpoint")
    else:
        state = load_checkpoint(source / "checkpoint.pt")
        save_checkpoint(path, {**state, "pair": {"other": torch.zeros(1)}})
    before = path.read_bytes(), (folder / "metrics.jsonl").read_bytes()
    assert str(path) in refused(run("svi_train.py", "--resume", folder, "--steps", 9))
    assert (path.read_bytes(), (folder / "metrics.jsonl").read_bytes()) == before


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("steps_before", [0, 3])
def test_divergence_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, steps_before):
    step = Trainer.train_step

    def poisoned(trainer: Trainer) -> dict[str, float]:
        if trainer.step == steps_before + 1:
            with torch.no_grad():
                next(trainer.pair.model.parameters()).fill_(float("nan"))
        return step(trainer)

    monkeypatch.setattr(Trainer, "train_step", poisoned)
    process = run("svi_train.py", *TINY, "--out", tmp_path / "run")
    assert process.returncode == 1
    sentence = rf"error: step {steps_before + 2}: the loss is not finite .*reconstruction.*kl key.*checkpoint\.pt"
    assert re.search(sentence, process.stderr)
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state["step"] == steps_before
    assert all(value.isfinite().all() for value in state["pair"].values())


def test_parameters_beyond_all_bounds_are_found_by_the_evaluation(tmp_path):
    arguments = ["--learning-rate", "1e30", "--warmup-steps", 0, "--evaluate-every", "1"]
    process = run("svi_train.py", *changed(TINY, *arguments), "--out", tmp_path / "run")
    assert process.returncode == 1
    assert re.search(r"error: step 1, validation: the ELBO is not finite .*reconstruction", process.stderr)
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 0


def program(script: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(script, *arguments), capture_output=True, text=True, cwd=cwd, timeout=HANGS)


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_script_starts_as_a_program_from_any_folder(script, tmp_path):
    process = program(script, "--help", cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert re.match(rf"usage: \S*{script} \[-h\]", process.stdout)


def test_a_program_that_is_refused_exits_with_status_2(tmp_path):
    process = program("generate.py", "--odd", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr == "error: --odd: expected a flag of generate.py, found none of that name\n"


@pytest.mark.parametrize(
    "flags",
    [
        [
            *("--precision", "bfloat16", "--augment", "--write", "feed_forward", "--temporal-shift", "0.125"),
            *("--kl-key-start", "0.1", "--kl-begin-step", "2", "--kl-ramp-steps", "3"),
        ],
        [
            *("--networks", "conv", "--width", "16", "--objective", "mean_field", "--classes-per-episode", "3"),
            *("--signs-per-scalar", "4"),
        ],
    ],
)
def test_every_kind_of_run_resumes_bit_for_bit(flags, tmp_path):
    straight, folder = tmp_path / "straight", tmp_path / "resumed"
    flags = ["--warmup-steps", "100", *flags]
    assert run("svi_train.py", *changed(TINY, *flags, "--evaluate-every", 6), "--out", straight).returncode == 0
    with without_figures():
        assert run("svi_train.py", *changed(TINY, *flags, "--steps", 4), "--out", folder).returncode == 0
        assert run("svi_train.py", "--resume", folder, "--steps", 6).returncode == 0
    assert_equal_states(load_checkpoint(straight / "checkpoint.pt"), load_checkpoint(folder / "checkpoint.pt"))


def test_a_resumed_run_cannot_end_before_it_began(finished):
    before = (finished[0] / "config.json").read_bytes()
    assert "--steps" in refused(run("svi_train.py", "--resume", finished[0], "--steps", "2"))
    assert (finished[0] / "config.json").read_bytes() == before


def test_dry_run_of_a_resumed_run_prints_its_own_configuration(finished):
    shown = json.loads(run("svi_train.py", "--resume", finished[0], "--steps", "9", "--dry-run").stdout)
    assert (shown["training"]["steps"], shown["network"]["width"]) == (9, 32)


@pytest.fixture
def help_text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # a single column of flags
    return run("svi_train.py", "--help").stdout


def flags_of(text: str) -> list[str]:
    """Flags in the order that a help has them; what explains them is further to the right."""
    return re.findall(r"^  (--[a-z][a-z-]*)", text, flags=re.MULTILINE)


def test_every_flag_is_a_field_of_the_configuration_or_of_the_script(help_text):
    flags = flags_of(help_text)
    own = {"--out", "--resume", "--config", "--dry-run", "--plugin"}
    assert len(flags) == len(set(flags)) and set(flags) == own | {flag(name) for name in Config().flat()}


def test_help_begins_with_what_most_runs_need(help_text):
    first = ["dataset", "data-dir", "out", "write", "preset", "steps", "seed", "device", "resume"]
    assert flags_of(help_text)[:9] == [f"--{name}" for name in first]


def test_help_says_the_defaults_and_what_presets_make_of_them(help_text):
    text = re.sub(r"\s+", " ", help_text)
    assert "(default: digits)" in text
    colour = "celeba, celeba32, cifar10, imagenet32, mazes32, svhn"
    steps = f"2500; 17000 with array, fashion_mnist, folder, mnist; 10000 with {colour}; 13500 with omniglot"
    assert f"(default: {steps})" in text
    assert f"(default: 4; 8 with {colour}; 100 with feed_forward)" in text


def test_a_run_of_the_configuration_of_another_differs_in_what_is_given_alone(finished, tmp_path):
    path = finished[0] / "config.json"
    with without_figures():
        process = run("svi_train.py", "--config", path, "--seed", 1, "--learning-rate", 0.5, "--out", tmp_path / "run")
    assert process.returncode == 0, process.stderr
    before, after = (json.loads(file.read_text())["config"] for file in (path, tmp_path / "run" / "config.json"))
    assert (after["seed"], after["training"]["learning_rate"]) == (1, 0.5)
    before["seed"], before["training"]["learning_rate"] = 1, 0.5
    assert after == before


def test_a_configuration_in_yaml_is_as_flags_are_and_others_go_before_it(tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("write: feed_forward\nsteps: 7\nwidth: 32\naugment: true\n")
    from_file = run("svi_train.py", "--config", path, "--steps", 9, "--dry-run", cwd=tmp_path)
    flags = ["--write", "feed_forward", "--steps", 9, "--width", 32, "--augment"]
    assert from_file.stdout == run("svi_train.py", *flags, "--dry-run", cwd=tmp_path).stdout
    shown = json.loads(from_file.stdout)
    assert (shown["memory"]["memory_channels"], shown["training"]["steps"]) == (100, 9)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("flags.yaml", "stepps: 7", "did you mean steps"),
        ("flags.yaml", "steps: soon", "--steps: expected a whole number, found 'soon'"),
        ("flags.yaml", "- steps", "mapping"),
        ("config.json", "{}", "config.json of a run"),
        ("config.json", '{"version": 2, "config": {"data": {"stepps": 7}}}', "stepps"),
    ],
)
def test_a_configuration_that_is_none_is_refused_by_name(name, content, named, tmp_path):
    (tmp_path / name).write_text(content)
    sentence = refused(run("svi_train.py", "--config", tmp_path / name, "--dry-run", cwd=tmp_path))
    assert sentence.startswith(f"error: {tmp_path / name}: ") and named in sentence
    assert "nowhere.yaml" in refused(run("svi_train.py", "--config", "nowhere.yaml", cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_dry_run_prints_the_resolved_configuration_and_leaves_nothing(tmp_path):
    process = run("svi_train.py", "--dry-run", "--write", "feed_forward", "--steps", "7", cwd=tmp_path)
    shown = json.loads(process.stdout)
    assert shown["training"]["steps"] == 7
    assert shown["memory"]["memory_channels"] == 100
    assert shown["network"]["width"] > 0
    assert list(tmp_path.iterdir()) == []
