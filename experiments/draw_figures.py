"""Draw every figure of a run again, from its folder, with its best checkpoint.

python experiments/draw_figures.py runs/mnist
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from experiments.shared.arguments import RunArguments
from experiments.shared.script import run_script
from inference.runs.plots import (
    plot_denoising_figures,
    plot_figures,
    plot_generation_figures,
    plot_memory_at_work,
    plot_score_figures,
)


@dataclass(frozen=True)
class Arguments(RunArguments):
    """Draw every figure of a run again, from its folder, with its best checkpoint."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = tyro.cli(Arguments, args=argv)
    run = arguments.open_run()
    drawn = plot_figures(run.folder, run.pair, run.episodes.validation)
    drawn |= plot_memory_at_work(run)
    if run.folder.evaluation.exists():
        drawn |= plot_score_figures(run.folder)
    if run.folder.denoising.exists():
        drawn |= plot_denoising_figures(run)
    if run.folder.generation.exists():
        drawn |= plot_generation_figures(run)
    for name in drawn:
        print(run.folder.figures / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
