"""Two processes started by torchrun, with gloo, on one node or on two: they train, score and end as one does."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.shared.script import single_process
from inference.errors import ReportedError
from inference.processes import Processes
from inference.runs.resolve import require_device_each
from kpp_pyro.errors import InputError
from kpp_pyro.files.checkpoint import load_checkpoint
from tests.experiments import joined
from tests.experiments.joined import QUICK, SCORED
from tests.experiments.running import ROOT, changed, run, without_figures
from tests.waiting import HANGS, free_port, wait_until

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def torchrun(program: str, folder: Path, *flags: str) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", *flags]
    return [*launch, str(ROOT / "tests" / "experiments" / "joined.py"), program, str(folder)]


def launched_nodes(folder: Path) -> dict[int, str]:
    """Run two nodes of one process each; what each wrote, by its exit status."""
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}")
    command = torchrun("two_nodes", folder, "--nnodes", "2", "--nproc-per-node", "1", *meeting)
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context((folder / f"node{node}.log").open("w+")) for node in range(2)]
        nodes = [subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=ENVIRONMENT) for log in logs]
        for node in nodes:
            stack.callback(node.kill)
        statuses = [node.wait(HANGS) for node in nodes]
    return {status: Path(log.name).read_text() for status, log in zip(statuses, logs, strict=True)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a run of three steps on one process, `one`, beside what the two nodes leave."""
    folder = tmp_path_factory.mktemp("runs")
    with without_figures(), joined.drawn_images() as drawn:
        assert run("svi_train.py", *changed(QUICK, "--steps", 3), "--out", folder / "one").returncode == 0
    torch.save(drawn, folder / "drawn.pt")
    said = launched_nodes(folder)
    assert (folder / "dying" / "checkpoint.pt").exists(), said  # its last job, see below
    torch.save(said, folder / "said.pt")
    return folder


@pytest.fixture(scope="module")
def both(folder):
    """What each of the two processes found."""
    return [torch.load(folder / f"process{rank}.pt", weights_only=False) for rank in range(2)]


def metrics(folder: Path) -> list[tuple[int, str]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["split"]) for record in records]


@pytest.mark.parametrize("name", joined.STEPPED)
def test_steps_of_two_processes_equal_those_of_one_with_the_joined_batch_and_the_same_noise(both, name):
    alone = joined.stepped(name)
    for process in both:
        for kind in ("gradients", "parameters"):
            torch.testing.assert_close(process[name][kind], alone[kind], rtol=1e-3, atol=1e-5)
        assert process[name]["quantities"] == pytest.approx(alone["quantities"], rel=1e-6)


def test_parameters_are_identical_in_all_processes_after_training(both):
    first, second = (process["trained"]["parameters"] for process in both)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert both[0]["trained"]["loss"] == both[1]["trained"]["loss"] > -1000


@pytest.mark.usefixtures("no_figures")
def test_processes_draw_other_noise_and_other_episodes_of_the_order_of_one(both, tmp_path):
    alone = joined.trained(tmp_path / "alone")
    first, second = (process["trained"] for process in both)
    assert torch.equal(first["noise"], alone["noise"]) and not torch.equal(first["noise"], second["noise"])
    together = [torch.stack(rows, 1).flatten(0, 1) for rows in zip(first["drawn"], second["drawn"], strict=True)]
    assert len(together) == 6 and all(map(torch.equal, together, alone["drawn"]))


def test_only_the_first_process_writes_and_one_process_can_read_it(folder, both):
    assert metrics(folder / "two") == [(3, "validation"), (6, "train"), (6, "validation")]
    content = json.loads((folder / "two" / "config.json").read_text())
    assert content["config"]["training"]["episodes_per_step"] == 2
    assert not content["earlier_environments"] and not list((folder / "two").glob(".*.partial"))
    assert len(list((folder / "two" / "tensorboard").iterdir())) == 1
    saved = load_checkpoint(folder / "two" / "checkpoint.pt")
    assert all(
        torch.equal(value, saved["pair"][f"model.{name}"]) for name, value in both[0]["trained"]["parameters"].items()
    )


@pytest.mark.usefixtures("no_figures")
def test_a_run_of_one_process_goes_on_with_two_and_back(folder, both, tmp_path):
    statuses, outputs, _ = zip(*(process["resumed"]["said"] for process in both), strict=True)
    assert statuses == (0, 0) and "Test ELBO" in outputs[0] and not outputs[1]
    assert len(load_checkpoint(folder / "one" / "checkpoint.pt")["processes"]) == 2
    back = joined.resumed(folder / "one", 9)
    assert back["said"][0] == 0, back["said"]
    assert len(load_checkpoint(folder / "one" / "checkpoint.pt")["processes"]) == 1
    assert [step for step, split in metrics(folder / "one") if split == "validation"] == [3, 6, 9]
    with joined.drawn_images() as straight:
        assert run("svi_train.py", *changed(QUICK, "--steps", 9), "--out", tmp_path / "straight").returncode == 0
    pairs = zip(*(process["resumed"]["drawn"] for process in both), strict=True)
    drawn = [*torch.load(folder / "drawn.pt"), *(torch.cat(pair) for pair in pairs), *back["drawn"]]
    assert len(drawn) == 9 and all(map(torch.equal, drawn, straight))  # no episode is left out, and none comes twice


def test_scores_do_not_depend_on_the_number_of_processes(both):
    alone = joined.scored()
    assert list(alone["by_memory"]) == ["own", "left_out", "other", "empty"]
    assert all(len(scores) == alone["counted"] for scores in alone["by_memory"].values())
    for process in both:
        assert process["scored"]["results"] == alone["results"]
        for name, scores in alone["by_memory"].items():
            assert torch.equal(process["scored"]["by_memory"][name], scores), name


def test_the_report_of_two_processes_is_that_of_one(folder, both):
    (status, output, errors), silent = (process["evaluated"] for process in both)
    assert status == 0 and "own" in output and silent == (0, "", "")
    assert "150/150" in errors
    with joined.quick_search():
        assert run("evaluate.py", folder / "two", *SCORED).returncode == 0
    contents = [json.loads(path.read_text()) for path in (folder / "evaluation.json", folder / "two/evaluation.json")]
    assert [content["environment"].pop("processes") for content in contents] == [2, 1]
    for content in contents:
        assert min(content.pop("seconds").values()) > 0
        assert content.pop("particle_images_per_second") > 0
    assert contents[0] == contents[1]


def test_what_only_the_second_process_meets_is_said_by_the_first(both):
    first, second = (process["refused"] for process in both)
    assert first == (2, "", "error: process 1: only here\n")
    assert second == (2, "", "")


def test_all_processes_run_out_of_patience_at_once(folder, both):
    (status, output, _), silent = (process["impatient"] for process in both)
    assert status == 0 and "Training ends after step 3 of 6" in output and silent == (0, "", "")
    assert load_checkpoint(folder / "impatient" / "checkpoint.pt")["step"] == 3
    assert metrics(folder / "impatient")[-1] == (1, "test")


def test_a_divergence_in_one_process_ends_all_and_keeps_the_last_good_checkpoint(folder, both):
    (status, _, errors), second = (process["diverging"] for process in both)
    sentences = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 1 and len(sentences) == 1 and "is not finite" in sentences[0]
    assert (second[0], second[2]) == (1, "")
    saved = load_checkpoint(folder / "diverging" / "checkpoint.pt")
    assert saved["step"] == 0 and all(value.isfinite().all() for value in saved["pair"].values())


@pytest.mark.usefixtures("no_figures")
def test_a_node_that_dies_ends_the_other_and_leaves_a_run_to_go_on_with(folder):
    said = torch.load(folder / "said.pt")  # and nothing took as long as HANGS
    (status,) = said.keys() - {-signal.SIGKILL}
    assert status > 0
    assert re.findall("error: .*", said[status]) == [
        "error: joined.py: expected all processes to go on, found that another one has ended"
    ]
    assert "[rank" not in said[status]  # no traceback but that of torchrun
    assert load_checkpoint(folder / "dying" / "checkpoint.pt")["step"] == 3
    resumed = run("svi_train.py", "--resume", folder / "dying", "--steps", 6)
    assert resumed.returncode == 0, resumed.stderr
    assert [step for step, split in metrics(folder / "dying") if split == "validation"] == [3, 6]


def test_what_processes_cannot_share_gets_one_sentence_and_leaves_nothing(folder, both):
    first, second = (process["unshared"] for process in both)
    sentence = "error: --episodes-per-step: expected a multiple of the 2 processes that share them, found 3\n"
    assert (first, second) == ((2, "", sentence), (2, "", ""))
    assert not (folder / "unshared").exists()


def test_nodes_that_share_no_folder_are_refused_before_the_run_begins(folder, both):
    first, second = (process["apart"] for process in both)
    sentence = "error: process 1: --out run: expected a folder that all nodes share, found none on this node\n"
    assert (first, second) == ((2, "", sentence), (2, "", ""))
    assert not list(folder.glob("of_process*/*"))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """What one node of two processes leaves that is interrupted by Ctrl-C: its folder, exit status and output."""
    folder = tmp_path_factory.mktemp("one_node")
    command = torchrun("one_node", folder, "--standalone", "--nproc-per-node", "2")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=ENVIRONMENT, start_new_session=True) as process:
        log = folder / "long" / "metrics.jsonl"
        wait_until(lambda: process.poll() is not None or (log.exists() and log.read_text()))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does; torchrun then sends it to each once more
        output, errors = process.communicate(timeout=HANGS)
    return folder, process.returncode, output, errors


def test_two_nodes_train_to_the_parameters_of_one_node_of_two_processes(interrupted, both):
    alone = load_checkpoint(interrupted[0] / "one_node" / "checkpoint.pt")
    assert alone["step"] == 6 and len(alone["processes"]) == 2
    for name, value in both[0]["trained"]["parameters"].items():
        assert torch.equal(value, alone["pair"][f"model.{name}"]), name


def test_ctrl_c_reaches_all_processes_at_once_and_leaves_a_run_to_go_on_with(interrupted):
    folder, status, output, errors = interrupted
    assert status != 0
    stopped = load_checkpoint(folder / "long" / "checkpoint.pt")["step"]
    assert 50 <= stopped < 9000
    assert re.findall(r"Interrupted after step (\d+); saved", output) == [str(stopped)], output + errors
    assert errors.count("stopping after a few steps") == 1
    with without_figures():
        resumed = run("svi_train.py", "--resume", folder / "long", "--steps", stopped + 2)
    assert resumed.returncode == 0, resumed.stderr


def test_scripts_for_one_process_refuse_several():
    main = single_process(lambda: 0)
    assert main(Processes()) == 0
    with pytest.raises(InputError, match="expected one process, found 2"):
        main(Processes(0, 2))
    with pytest.raises(ReportedError):
        main(Processes(1, 2))


def test_a_gpu_of_a_certain_number_is_refused():
    require_device_each(torch.device("cpu"))
    with pytest.raises(InputError, match="--device cuda:1: expected cpu, cuda or auto"):
        require_device_each(torch.device("cuda:1"))
