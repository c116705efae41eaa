"""Time a training step: what Pyro costs of it, where the rest goes, and what it grows with.

python experiments/benchmark.py                    # everything, in some minutes; leave the machine alone meanwhile
python experiments/benchmark.py --sections steps   # only the program against the ELBO written by hand
python experiments/benchmark.py --sections memories --out memories.json   # only writing to and reading from memories
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from experiments.shared.arguments import require_at_least
from experiments.shared.script import run_script
from experiments.shared.speed.contenders import configuration
from experiments.shared.speed.growth import PARTICLES, axes, measure_growth
from experiments.shared.speed.input import time_input
from experiments.shared.speed.memories import LENGTHS, measure_memories
from experiments.shared.speed.steps import time_parts, time_steps
from experiments.shared.speed.table import describe_benchmark
from inference.runs.config import Config
from inference.runs.resolve import resolve_device
from kpp_pyro.errors import InputError
from kpp_pyro.files.run_folder import environment, write_json
from kpp_pyro.plots import plot_growth, plot_memory_costs

Section = Literal["steps", "parts", "growth", "memories", "input"]
_BARS = {"mnist": 1.05, "mnist medium": 1.05, "digits": 1.15}  # of the program's time over that by hand, on a CPU
_CAPTURED_BAR = 1.02  # on a GPU, both captured
_PICTURES = {"growth": (plot_growth, "growth"), "memories": (plot_memory_costs, "memory_costs")}


@dataclass(frozen=True)
class Arguments:
    """Time a training step of the Pyro program in turns with one written by hand, and say where its time goes.

    Needs no data set: images are noise of the right shape. Prints one table, and writes it with every timing's spread
    to a JSON file, and growth and memories beside it as pictures. Ratios are medians over neighbouring timings.
    """

    out: Path = Path("benchmark.json")
    """File to write; the pictures go beside it."""
    sections: tuple[Section, ...] = ("steps", "parts", "growth", "memories", "input")
    """What to measure: the program against the ELBO by hand; where time goes; growth with T, batch, memory,
    reads and particles; writing to and reading from every memory; waiting for a folder."""
    repeats: int = 40
    """Timings of each way; growth and memories take a fifth of them."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""
    pictures: int = 2000
    """JPEGs of the folder, made in a temporary one."""
    picture_size: int = 256
    """Their side in pixels."""
    workers: int = 1
    """Processes that decode them."""
    quick: bool = False
    """Small sizes and few repeats, to see that everything works; the numbers mean nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = tyro.cli(Arguments, args=argv)
    require_at_least(arguments, {"repeats": 1, "pictures": 64, "picture_size": 16, "workers": 1})
    if not arguments.out.parent.is_dir():
        raise InputError(f"--out: expected a file in a folder that is there, found {arguments.out}")
    content = measure(arguments, str(resolve_device(arguments.device)))
    write_json(arguments.out, content)
    print(describe_benchmark(content))
    print(arguments.out)
    for section, (draw, name) in _PICTURES.items():
        if section in content:
            picture = arguments.out.with_name(f"{arguments.out.stem}_{name}.png")
            draw(content[section], picture)
            print(picture)
    return 0


def measure(arguments: Arguments, device: str) -> dict[str, Any]:
    """Measure the sections that are asked for."""
    repeats = 2 if arguments.quick else arguments.repeats
    few = max(2, repeats // 5)
    pictures = 64 if arguments.quick else arguments.pictures
    sections: dict[Section, Callable[[], Any]] = {
        "steps": lambda: {
            name: _with_bar(name, time_steps(config, repeats), device)
            for name, config in presets(device, medium=True).items()
        },
        "parts": lambda: {name: time_parts(c, repeats) for name, c in presets(device).items()},
        "growth": lambda: measure_growth(
            device, few, axes(arguments.quick), (10, 20) if arguments.quick else PARTICLES
        ),
        "memories": lambda: measure_memories(device, few, LENGTHS[:2] if arguments.quick else LENGTHS),
        "input": lambda: time_input(device, few, pictures, arguments.picture_size, arguments.workers),
    }
    return {
        **{name: section() for name, section in sections.items() if name in arguments.sections},
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "precision": configuration("mnist", device).precision,
        "environment": environment(),
    }


def presets(device: str, medium: bool = False) -> dict[str, Config]:
    """The configurations that are timed: the presets of a CPU, and on a GPU the largest too."""
    found = {"digits": configuration("digits", device), "mnist": configuration("mnist", device)}
    if medium:
        found["mnist medium"] = configuration("mnist", device, preset="medium")
    if device.startswith("cuda"):
        found["mnist base"] = configuration("mnist", device, preset="base")
    return found


def _with_bar(name: str, step: dict[str, Any], device: str) -> dict[str, Any]:
    bars = {"pyro captured / by hand captured": _CAPTURED_BAR}
    if device == "cpu":
        bars = {"pyro / by hand": _BARS[name]}
    return {**step, "bars": bars}


if __name__ == "__main__":
    sys.exit(run_script(main))
