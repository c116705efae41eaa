"""Draw every figure of a run again, from its folder, with its best checkpoint.

python experiments/draw_figures.py runs/mnist
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.build import build_episodes, build_program, load_program, read_run, resolve_device
from experiments.pictures import draw_figures
from experiments.script import run_script


@dataclass(frozen=True)
class Arguments:
    """Draw every figure of a run again, from its folder, with its best checkpoint."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = tyro.cli(Arguments, args=argv)
    folder, config = read_run(arguments.run)
    device = resolve_device(config.device)
    episodes = build_episodes(config, device)
    program = build_program(config, episodes.train.image_shape, device)
    load_program(program, folder.best)
    for name in draw_figures(folder, program, episodes.validation):
        print(folder.figures / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
