"""Time a training step: the overhead of Pyro, the time of each part, and the growth with each size.

python experiments/benchmark.py                    # everything, in some minutes; on an otherwise idle machine
python experiments/benchmark.py --sections steps   # only the Pyro program against the ELBO by hand
python experiments/benchmark.py --sections memories --out memories.json   # only writing and reading memories
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from experiments.shared.command_line import parse
from experiments.shared.script import run_script
from kpp_pyro.errors import InputError

if TYPE_CHECKING:
    from inference.runs.config import Config

Section = Literal["steps", "parts", "growth", "memories", "input"]
_BARS = {
    "mnist": 1.05,
    "mnist medium": 1.05,
    "digits": 1.15,
}  # largest ratio of the step times, Pyro / by hand, on a CPU
_CAPTURED_BAR = 1.02  # the same on a GPU, both captured


@dataclass(frozen=True)
class Arguments:
    """Time a training step of the Pyro program in turns with one written by hand, and time its parts.

    Needs no data set: images are random. Prints a table, and writes a JSON file with the medians and quartiles; figures
    of the sections growth and memories are written next to it. Ratios are medians over neighbouring timings.
    """

    out: Path = Path("benchmark.json")
    """JSON file to write; the figures go to the same folder."""
    sections: tuple[Section, ...] = ("steps", "parts", "growth", "memories", "input")
    """Measurements. steps: the Pyro program against the ELBO by hand. parts: the parts of a step. growth: time and
    peak memory against T, B, memory size, reads and particles. memories: write, read and recall of every memory. input:
    waiting for pictures of a folder."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 40
    """Timings of each implementation; growth, memories and input take a fifth as many."""
    device: str = "auto"
    """Device to time: auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    pictures: Annotated[int, Field(ge=64, le=1_000_000)] = 2000
    """Number of JPEGs of the section input, written to a temporary folder."""
    picture_size: Annotated[int, Field(ge=16, le=10_000)] = 256
    """Side of these JPEGs in pixels."""
    workers: Annotated[int, Field(ge=1, le=1000)] = 1
    """Processes that decode these JPEGs."""
    quick: bool = False
    """Test run with small sizes and few repeats; its numbers mean nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    if not arguments.out.parent.is_dir() or arguments.out.is_dir():
        raise InputError(f"--out: expected a file in an existing folder, found {arguments.out}")
    from experiments.shared.speed.table import describe_benchmark
    from inference.runs.resolve import resolve_device
    from inference.threads import choose_threads
    from kpp_pyro.files.run_folder import write_json
    from kpp_pyro.plots import plot_growth, plot_memory_costs

    choose_threads()
    content = measure(arguments, str(resolve_device(arguments.device)))
    write_json(arguments.out, content)
    print(describe_benchmark(content))
    print(arguments.out)
    figures = {"growth": (plot_growth, "growth"), "memories": (plot_memory_costs, "memory_costs")}
    for section, (plot, name) in figures.items():
        if section in content:
            path = arguments.out.with_name(f"{arguments.out.stem}_{name}.png")
            plot(content[section], path)
            print(path)
    return 0


def measure(arguments: Arguments, device: str) -> dict[str, Any]:
    """The content of the JSON file: each section of `arguments.sections`, and the settings."""
    import torch

    from experiments.shared.speed.growth import PARTICLES, axes, measure_growth
    from experiments.shared.speed.input import time_input
    from experiments.shared.speed.memories import LENGTHS, measure_memories
    from experiments.shared.speed.steps import time_parts, time_steps
    from experiments.shared.speed.workload import configuration
    from kpp_pyro.files.run_folder import environment

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
    """The timed configurations, by name; the largest only on a GPU."""
    from experiments.shared.speed.workload import configuration

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


command = partial(run_script, main)

if __name__ == "__main__":
    sys.exit(command())
