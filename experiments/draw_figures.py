"""Plot every figure of a run again, from its folder and its best checkpoint.

python experiments/draw_figures.py runs/mnist
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from experiments.shared.arguments import RunArguments
from experiments.shared.command_line import parse
from experiments.shared.script import print_figures, run_script


@dataclass(frozen=True)
class Arguments(RunArguments):
    """Plot every figure of a run again, from its folder and its best checkpoint, into RUN/figures."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    from inference.runs.plots import (
        plot_denoising_figures,
        plot_figures,
        plot_from_prior_figures,
        plot_generation_figures,
        plot_memory_at_work,
        plot_score_figures,
    )

    run = arguments.open_run()
    run.folder.require_readable()
    figures = plot_figures(run.folder, run.pair, run.episodes.validation)
    figures |= plot_memory_at_work(run.folder, run.pair, run.episodes.test)
    if run.folder.evaluation.exists():
        figures |= plot_score_figures(run.folder)
    if run.folder.denoising.exists():
        figures |= plot_denoising_figures(run)
    if run.folder.generation.exists():
        figures |= plot_generation_figures(run)
    if run.folder.from_prior.exists():
        figures |= plot_from_prior_figures(run)
    print_figures(run.folder, figures)
    return 0


command = partial(run_script, main)

if __name__ == "__main__":
    sys.exit(command())
