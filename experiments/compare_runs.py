"""Plot the learning curves of several runs in one figure, with a panel for each data set and T.

python experiments/compare_runs.py runs/a runs/b --out curves.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.shared.command_line import Plugins, parse, script_name
from experiments.shared.script import run_script
from kpp_pyro.errors import InputError

if TYPE_CHECKING:
    from inference.runs.config import Config


@dataclass(frozen=True)
class Arguments:
    """Plot the -ELBO on the validation set against training time, for several runs.

    Nats of different images do not compare, nor those of episodes of different lengths T, whose limit is ln T: each
    data set, T, number of levels, size and colour has a panel.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders; the legend has their names."""
    out: Path
    """Figure to write, a .png file."""
    plugin: Plugins = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    if arguments.out.suffix != ".png":
        raise InputError(f"--out {arguments.out}: expected a name that ends in .png, found {arguments.out.suffix!r}")
    names = [path.resolve().name for path in arguments.runs]
    if len(set(names)) < len(names):
        raise InputError(f"{script_name()}: expected run folders of different names, found two of one name")
    from inference.runs.load import read_run
    from kpp_pyro.plots import plot_comparison

    metrics: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, path in zip(names, arguments.runs, strict=True):
        folder, config = read_run(path)
        kind = describe_kind(config, folder.read_image_shape())
        metrics.setdefault(kind, {})[name] = folder.read_metrics()
    try:
        plot_comparison(metrics, arguments.out)
    except OSError as error:
        raise InputError(f"--out {arguments.out}: expected a file to write, found {error.strerror}") from error
    print(arguments.out)
    return 0


def describe_kind(config: Config, image_shape: tuple[int, int, int]) -> str:
    """What runs have to share for their nats to compare: data set, T, and the levels, size and colour of images."""
    from kpp_pyro.data import DATASETS
    from kpp_pyro.likelihoods import LIKELIHOODS

    data, levels = config.data, LIKELIHOODS[config.program.likelihood].levels
    source = data.data_dir.name if DATASETS[data.dataset].own else data.dataset
    channels, height, width = image_shape
    kind = "binary" if levels == 2 else f"{levels} levels"
    kind = f"{source}, T = {data.images_per_episode}\n{kind}"
    return f"{kind}, {height} x {width} pixels" + ("" if channels == 1 else f", {channels} channels")


command = partial(run_script, main)

if __name__ == "__main__":
    sys.exit(command())
