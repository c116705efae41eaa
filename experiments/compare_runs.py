"""Plot the learning curves of several runs in one figure.

python experiments/compare_runs.py runs/a runs/b --out curves.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.shared.command_line import parse
from experiments.shared.script import run_script
from kpp_pyro.errors import InputError


@dataclass(frozen=True)
class Arguments:
    """Plot the -ELBO on the validation set against training time, for several runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders; the legend has their names."""
    out: Path
    """Figure to write, a .png file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    if arguments.out.suffix != ".png":
        raise InputError(f"--out {arguments.out}: expected a name that ends in .png, found {arguments.out.suffix!r}")
    names = [path.resolve().name for path in arguments.runs]
    if len(set(names)) < len(names):
        raise InputError("compare_runs: expected run folders of different names, found two of one name")
    from kpp_pyro.files.run_folder import RunFolder
    from kpp_pyro.plots import plot_comparison

    metrics = {name: RunFolder.open(path).read_metrics() for name, path in zip(names, arguments.runs, strict=True)}
    try:
        plot_comparison(metrics, arguments.out)
    except OSError as error:
        raise InputError(f"--out {arguments.out}: expected a file to write, found {error.strerror}") from error
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
