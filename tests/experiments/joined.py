"""What one of two processes does for `test_torchrun.py`: many jobs in one start, since a start takes ten seconds."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import normal

from experiments import evaluate, svi_train
from experiments.shared.script import run_main, run_shared_script
from experiments.svi_train import new_config, parse
from inference.importance import scoring
from inference.importance.scoring import ScoringPlan, score_episodes
from inference.importance.search import searching_proposal
from inference.metrics.elbo import mean_elbo
from inference.processes import SINGLE_PROCESS, Processes
from inference.runs.build_trainer import build_trainer
from inference.runs.interruption import Interruption
from inference.runs.resolve import resolve
from inference.runs.trainer import Trainer
from inference.runs.training_run import TrainingRun
from kpp_pyro.data import EpisodeSampler, LabelledImages
from kpp_pyro.distributions.block_key import BlockKey
from kpp_pyro.errors import InputError
from kpp_pyro.files.run_folder import RunFolder
from models.build import build
from tests.experiments.running import TINY, UNCHANGING, changed, without_figures
from tests.programs import IMAGE_SHAPE, WRITES, random_episodes, small_config, small_pair

QUICK = [*TINY, "--device", "cpu", "--precision", "float32"]
SCORED = ["--limit", "150", "--particles", "20", "--control-particles", "10", "--posterior-images", "0"]
STEPPED: dict[str, dict[str, Any]] = {**{write: {"write": write} for write in WRITES}, "bypass": {"bypass_weight": 0.5}}
EPISODES_PER_STEP = 4


@contextlib.contextmanager
def noise_of_episodes(processes: Processes):
    """Have episode b of a step, image t, draw the same numbers whichever process it is on."""
    drawn = 0

    def own_rows(draw: Callable[..., Tensor], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        nonlocal drawn
        drawn += 1
        generator = torch.Generator().manual_seed(drawn)
        everyones = draw(EPISODES_PER_STEP, *shape[1:], dtype=dtype, generator=generator)
        return everyones[processes.rank :: processes.count]

    def keys(key: BlockKey, sample_shape: torch.Size = torch.Size()) -> Tensor:
        shape = key._extended_shape(sample_shape)
        uniform = 0.1 + 0.8 * own_rows(torch.rand, shape, key.block_probs.dtype)
        return torch.special.ndtri(
            torch.lerp(*key.addressing.cells(key.block_probs.argmax(-1), uniform.dtype), uniform)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normal, "_standard_normal", lambda shape, dtype, device: own_rows(torch.randn, shape, dtype))
        patch.setattr(BlockKey, "rsample", keys)
        yield


def stepped(name: str, processes: Processes = SINGLE_PROCESS, steps: int = 3) -> dict[str, Any]:
    """Steps of a small pair with the random draws fixed: parameters after them, and what is known of the last."""
    grey = (torch.rand(40, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(3)) * 255).to(torch.uint8)
    images = LabelledImages(grey, torch.zeros(40, dtype=torch.long))
    sampler = EpisodeSampler(images, 6, "static", 0, rank=processes.rank, ranks=processes.count)
    config = small_config(**STEPPED[name], steps=20, warmup_steps=1, episodes_per_step=EPISODES_PER_STEP)
    trainer = build_trainer(config, build(config, IMAGE_SHAPE), sampler, processes)
    with noise_of_episodes(processes):
        for _ in range(steps):
            quantities = trainer.quantities(trainer.train_step())
    gradients = [parameter.grad for parameter in trainer.parameters]
    return {"parameters": [p.detach() for p in trainer.parameters], "gradients": gradients, "quantities": quantities}


@contextlib.contextmanager
def quick_search():
    """Score the controls with a poor proposal, where it does not matter how good their scores are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "searching_proposal", partial(searching_proposal, pilots=8, starts=1, steps=1))
        yield


def scored(processes: Processes = SINGLE_PROCESS) -> dict[str, Any]:
    """Scores of five batches, some images of which do not count."""
    pair = small_pair("feed_forward")
    pair.model.float(), pair.guide.float()
    torch.manual_seed(9)  # must not matter
    counted = torch.rand(9, 6, generator=torch.Generator().manual_seed(5)) < 0.8
    batches = list(zip(random_episodes(9).float().split(2), counted.split(2), strict=True))
    with quick_search():
        scores = score_episodes(pair.model, pair.guide, batches, ScoringPlan(10, 0, 5), 3, processes)
    results = mean_elbo(pair.model, pair.guide, batches, 3, processes)
    by_memory = {name: score.log_likelihood for name, score in scores.by_memory.items()}
    return {"results": results, "by_memory": by_memory, "counted": int(counted.sum())}


def trained(folder: Path, processes: Processes = SINGLE_PROCESS) -> dict[str, Any]:
    """Train a run; what it began with, drew and ended with."""
    config = resolve(new_config(parse(QUICK)), processes)
    with TrainingRun(RunFolder(folder), config, False, processes) as run:
        noise = torch.get_rng_state()
        with drawn_images() as drawn, Interruption(processes) as interruption:
            run.train(interruption)
    parameters = {name: value.clone() for name, value in run.pair.model.state_dict().items()}
    return {"noise": noise, "drawn": drawn, "parameters": parameters, "loss": run.best_elbo_nats_per_image}


@contextlib.contextmanager
def drawn_images():
    """Note the images that are drawn for every step."""
    drawn: list[Tensor] = []
    draw = EpisodeSampler.draw

    def noting(sampler: EpisodeSampler, num_episodes: int) -> Tensor:
        drawn.append(draw(sampler, num_episodes))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpisodeSampler, "draw", noting)
        yield drawn


def said(main: Callable[[Processes], int], processes: Processes) -> tuple[int, str, str]:
    """Status, output and errors of a main."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = run_main(main, processes)
    return status, output.getvalue(), errors.getvalue()


def resumed(folder: Path, steps: int, processes: Processes = SINGLE_PROCESS) -> dict[str, Any]:
    """Go on with a run."""
    with drawn_images() as drawn:
        arguments = ["--resume", str(folder), "--steps", str(steps)]
        status = said(lambda processes: svi_train.main(arguments, processes), processes)
    return {"said": status, "drawn": drawn}


def impatient(folder: Path, processes: Processes) -> tuple[int, str, str]:
    """Train with a learning rate that changes nothing."""
    arguments = [*changed(QUICK, *UNCHANGING), "--out", str(folder)]
    return said(lambda processes: svi_train.main(arguments, processes), processes)


def diverging(folder: Path, processes: Processes) -> tuple[int, str, str]:
    """Train until one process, the second, meets an image that is not a number."""
    render, rendered = EpisodeSampler.render, 0

    def poisoned(sampler: EpisodeSampler, drawn: Tensor) -> Tensor:
        nonlocal rendered
        rendered += 1
        return render(sampler, drawn) * (float("nan") if processes.rank == 1 and rendered > 2 else 1)

    arguments = [*changed(QUICK, "--steps", "60", "--evaluate-every", "60"), "--out", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpisodeSampler, "render", poisoned)
        return said(lambda processes: svi_train.main(arguments, processes), processes)


def unshared(folder: Path, processes: Processes) -> tuple[int, str, str]:
    """Train with three episodes per step, which two processes cannot share."""
    arguments = [*changed(QUICK, "--episodes-per-step", "3"), "--out", str(folder)]
    return said(lambda processes: svi_train.main(arguments, processes), processes)


def apart(folder: Path, processes: Processes) -> tuple[int, str, str]:
    """Train where the processes do not see the same folder."""
    own = folder / f"of_process{processes.rank}"
    own.mkdir()
    with contextlib.chdir(own):
        return said(lambda processes: svi_train.main([*QUICK, "--out", "run"], processes), processes)


def refused_in_the_second(processes: Processes) -> int:
    with processes.sync_errors():
        if processes.rank == 1:
            raise InputError("only here")
    return 0


def jobs(folder: Path, processes: Processes) -> dict[str, Any]:
    """Everything that a test looks at, by its name."""
    found: dict[str, Any] = {name: stepped(name, processes) for name in STEPPED}
    found["scored"] = scored(processes)
    found["refused"] = said(refused_in_the_second, processes)
    with without_figures():
        found["trained"] = trained(folder / "two", processes)
        found["resumed"] = resumed(folder / "one", 6, processes)
        found["impatient"] = impatient(folder / "impatient", processes)
        found["diverging"] = diverging(folder / "diverging", processes)
        found["unshared"] = unshared(folder / "unshared", processes)
        found["apart"] = apart(folder, processes)
    arguments = [str(folder / "two"), *SCORED]
    with quick_search():
        found["evaluated"] = said(lambda processes: evaluate.main(arguments, processes), processes)
    if processes.is_first:
        shutil.copy(folder / "two" / "evaluation.json", folder / "evaluation.json")
    return found


def end_node() -> None:
    """End this process, and `torchrun` before it, as the loss of a node does."""
    for process in (os.getppid(), os.getpid()):
        os.kill(process, signal.SIGKILL)


def dying(folder: Path, processes: Processes) -> int:
    """Train a run whose second node dies in the middle of it."""
    step = Trainer.train_step

    def deadly(trainer: Trainer) -> Any:
        if processes.rank == 1 and trainer.step == 4:
            end_node()
        return step(trainer)

    with pytest.MonkeyPatch.context() as patch, without_figures():
        patch.setattr(Trainer, "train_step", deadly)
        return svi_train.main([*changed(QUICK, "--steps", "1000"), "--out", str(folder)], processes)


def two_nodes(folder: Path, processes: Processes) -> int:
    """All jobs; then one of the nodes dies."""
    torch.save(jobs(folder, processes), folder / f"process{processes.rank}.pt")
    return dying(folder / "dying", processes)


def one_node(folder: Path, processes: Processes) -> int:
    """A run that two nodes train too; then a long one, to be interrupted."""
    with without_figures():
        trained(folder / "one_node", processes)
    long = changed(QUICK, "--steps", "9000", "--evaluate-every", "9000")
    return svi_train.main([*long, "--out", str(folder / "long")], processes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    program = {"two_nodes": two_nodes, "one_node": one_node}[sys.argv[1]]
    sys.exit(run_shared_script(partial(program, Path(sys.argv[2]))))
