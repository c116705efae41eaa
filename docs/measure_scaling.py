"""Measurements of `scaling.md`: random 28x28 images, T = 32, one thread per process, bfloat16 networks.

export OMP_NUM_THREADS=1 PYTHONPATH=.
python docs/measure_scaling.py sizes | input | evaluation | pauses
python docs/measure_scaling.py step mlp medium 8                                    # networks, preset, B
torchrun --standalone --nproc-per-node 2 docs/measure_scaling.py step mlp medium 8
torchrun --standalone --nproc-per-node 2 docs/measure_scaling.py reduce
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import distributed
from torch.utils.flop_counter import FlopCounterMode

from inference.importance.scoring import ScoringPlan, score_episodes
from inference.processes import SINGLE_PROCESS, Processes, joined_processes
from inference.runs.build_trainer import build_trainer
from inference.runs.config import Config
from inference.runs.plots import plot_figures
from inference.runs.trainer import Trainer
from inference.runs.training_run import held_out_elbo
from kpp_pyro.data import EpisodeSampler, EpisodeSet, LabelledImages
from kpp_pyro.files.checkpoint import save_checkpoint
from kpp_pyro.files.run_folder import RunFolder
from models.build import build
from models.pair import Pair

SHAPE = (1, 28, 28)


def images(number: int, shape: tuple[int, int, int] = SHAPE) -> LabelledImages:
    """Random grey images to train on."""
    grey = torch.randint(0, 256, (number, *shape), generator=torch.Generator().manual_seed(0))
    return LabelledImages(grey.to(torch.uint8), torch.zeros(number, dtype=torch.long))


def config_of(networks: str, preset: str, episodes_per_step: int = 8) -> Config:
    """Configuration of a preset of the networks."""
    named = {"networks": networks, "preset": preset, "episodes_per_step": episodes_per_step}
    return Config.preset("mnist", precision="bfloat16", **named)


def pair_of(config: Config) -> Pair:
    """An untrained pair."""
    return build(config, SHAPE, torch.device("cpu"))


def trainer_of(config: Config, processes: Processes = SINGLE_PROCESS) -> Trainer:
    """Trainer on as many images as MNIST has."""
    sampler = EpisodeSampler(images(60_000), 32, "dynamic", 0, rank=processes.rank, ranks=processes.count)
    return build_trainer(config, pair_of(config), sampler, processes)


def milliseconds(run: Callable[[], object], times: int) -> str:
    """Median and fastest time of a call, as text."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - began))
    return f"median {statistics.median(found):.2f} ms, fastest {min(found):.2f} ms"


def sizes() -> None:
    """Print the bytes of the gradients and the FLOPs of a step, for each preset."""
    for networks in ("mlp", "conv"):
        for preset in ("tiny", "small", "medium", "base"):
            trainer = trainer_of(config_of(networks, preset, 1))
            gradient = 4 * sum(parameter.numel() for parameter in trainer.parameters) / 1e6
            with FlopCounterMode(display=False) as counter:
                trainer.train_step()
            work = counter.get_total_flops() / 32 / 1e9
            print(f"{networks} {preset}: {gradient:.1f} MB of gradients, {work:.4f} GFLOP per image of a step")


def step(networks: str, preset: str, episodes_per_step: str) -> None:
    """Time a step of all processes."""
    with joined_processes() as processes:
        trainer = trainer_of(config_of(networks, preset, int(episodes_per_step)), processes)
        for _ in range(3):
            trainer.train_step()
        found = milliseconds(trainer.train_step, 6 if preset == "base" else 30)
        if processes.is_first:
            print(f"{networks} {preset}, B = {episodes_per_step}, {processes.count} processes: {found}")


def reduce() -> None:
    """Time all-reduces of several sizes, and the gather of a number."""
    with joined_processes() as processes:
        for megabytes in (0.001, 1, 5, 10, 40, 100, 300):
            value = torch.zeros(int(megabytes * 1e6 / 4))
            found = milliseconds(lambda value=value: distributed.all_reduce(value), 15)
            if processes.is_first:
                print(f"all-reduce of {megabytes} MB: {found}")
        found = milliseconds(lambda: processes.gather(0), 50)
        if processes.is_first:
            print(f"gather of a number: {found}")


def read_input() -> None:
    """Time drawing and rendering episodes, and decoding a JPEG."""
    sampler = EpisodeSampler(images(60_000), 32, "dynamic", 0)
    drawn = sampler.draw(8)
    print(f"draw 256 images: {milliseconds(lambda: sampler.draw(8), 60)}")
    print(f"render 256 images: {milliseconds(lambda: sampler.render(drawn), 60)}")
    for ranks in (8, 64, 1000):
        share = EpisodeSampler(images(60_000, (1, 1, 1)), 32, "dynamic", 0, ranks=ranks)
        found = milliseconds(lambda share=share: share.draw(8), 10)
        print(f"order of 8 episodes for each of {ranks} processes: {found}")
    smooth = Image.fromarray(torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8).numpy()).resize((256, 256))
    file = io.BytesIO()
    smooth.effect_spread(4).save(file, "JPEG", quality=90)
    decode = milliseconds(lambda: Image.open(io.BytesIO(file.getvalue())).convert("L"), 1000)
    print(f"decode a 256x256 JPEG of {len(file.getvalue())} bytes to grey: {decode}")


def evaluation() -> None:
    """Time an evaluation of the ELBO, and a score."""
    for preset in ("tiny", "medium", "base"):
        pair, episodes = pair_of(config_of("mlp", preset)), EpisodeSet(images(1024), 32)
        found = milliseconds(lambda p=pair, e=episodes: held_out_elbo(p, e), 3)
        print(f"evaluate 1,024 images, mlp {preset}: {found}")
    pair, batches = pair_of(config_of("mlp", "medium")), list(EpisodeSet(images(64), 32).batches(2))
    plan = ScoringPlan(1000, 0, 200)
    found = milliseconds(lambda: score_episodes(pair.model, pair.guide, batches, plan), 3)
    print(f"score 64 images, mlp medium, K = 1000, controls with 200: {found}")


def pauses() -> None:
    """Time the work of the first process for which the others wait."""
    trainer, folder = trainer_of(config_of("mlp", "medium")), RunFolder(Path(tempfile.mkdtemp()) / "run")
    folder.create()
    trainer.train_step()
    pair, episodes = pair_of(config_of("mlp", "medium")), EpisodeSet(images(1024), 32)
    folder.log(1, "validation", {**held_out_elbo(pair, episodes), "training_seconds": 1.0})
    print(f"figures: {milliseconds(lambda: plot_figures(folder, pair, episodes), 5)}")
    found = milliseconds(lambda: save_checkpoint(folder.checkpoint, trainer.state_dict()), 5)
    print(f"checkpoint of {folder.checkpoint.stat().st_size / 1e6:.1f} MB: {found}")
    state = io.BytesIO()
    torch.save(trainer.state_dict()["processes"][0], state)
    print(f"random state of a process: {len(state.getvalue())} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    named = {"sizes": sizes, "step": step, "reduce": reduce}
    named |= {"input": read_input, "evaluation": evaluation, "pauses": pauses}
    what, *arguments = sys.argv[1:] or [""]
    sys.exit(named[what](*arguments) if what in named else __doc__)
