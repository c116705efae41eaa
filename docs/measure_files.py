"""Count the project's files, and calls of its functions, in one training step, one score and one recall of the digits.

PYTHONPATH=. python docs/measure_files.py [WRITE]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pyro
import torch

from experiments.shared.speed.workload import configuration, pyro_trainer, random_images
from inference.importance.scoring import ScoringPlan, score_episodes
from inference.trained_memory import TrainedMemory

ROOT = str(Path(__file__).parents[1])


def main(write: str = "allocate") -> None:
    """Print a line for each of the three."""
    config = configuration("digits", "cpu", write=write)
    trainer = pyro_trainer(config, random_images(config))
    for _ in range(3):
        trainer.train_step()
    pair, episodes = trainer.pair, (torch.rand(2, 32, 1, 16, 16) < 0.4).float()
    batches, plan = [(episodes, torch.ones(2, 32, dtype=torch.bool))], ScoringPlan(particles=10, control_particles=0)

    def score() -> None:
        with pyro.validation_enabled(False):
            score_episodes(pair.model, pair.guide, batches, plan)

    def recall() -> None:
        trained = TrainedMemory(pair.model, pair.guide)
        trained.recall(trained.write(episodes[0]), episodes[0], 1)

    walked("step", trainer.train_step)
    pair.eval()
    walked("score", score)
    walked("recall", recall)


def walked(name: str, act: Callable[[], object]) -> None:
    """Print the files, the calls and the calls in another file than the call before."""
    called: list[str] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT) and frame.f_code.co_filename != __file__:
            called.append(frame.f_code.co_filename)

    act()
    sys.setprofile(profile)
    act()
    sys.setprofile(None)
    changes = sum(one != other for one, other in pairwise(called)) + 1
    print(f"{name:<8}{len(set(called)):>4} files {len(called):>6} calls {changes:>6} changes of file")


if __name__ == "__main__":
    main(*sys.argv[1:])
