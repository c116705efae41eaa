"""Pack a run for a repository: its best parameters in a small file, and its configuration.

python experiments/pack_weights.py runs/mnist --out experiments/pretrained/mnist --content-steps 20
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from experiments.shared.command_line import Plugins, parse
from experiments.shared.script import run_script
from kpp_pyro.schema import Natural


@dataclass(frozen=True)
class Arguments:
    """Pack a run's best parameters and its configuration into a folder of experiments/pretrained, for --pretrained."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder to pack."""
    out: Path
    """Folder to write config.json and weights.safetensors to."""
    content_steps: Natural | None = None
    """Gradient steps that improve each image's content before it is written. None: as in the run's configuration."""
    plugin: Plugins = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    from inference.runs.pretrained import pack

    steps = arguments.content_steps
    path = pack(arguments.run, arguments.out, **({} if steps is None else {"content_steps": steps}))
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


command = partial(run_script, main)

if __name__ == "__main__":
    sys.exit(command())
