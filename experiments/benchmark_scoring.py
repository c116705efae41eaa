"""Time the scorer of a run against the loops of published code, and measure its peak memory.

python experiments/benchmark_scoring.py runs/mnist
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from experiments.shared.arguments import RunArguments
from experiments.shared.command_line import parse
from experiments.shared.script import run_script
from inference.ranges import Particles

_PEAK_PARTICLES = (100, 10_000)


@dataclass(frozen=True)
class Arguments(RunArguments):
    """Time the scorer of a run in turns with the loops of published code, on the same images.

    One loop encodes, writes, reads and decodes for every particle of every image; a faster one does so for every
    particle, with all images of an episode at once. Writes RUN/benchmark_scoring.json.
    """

    particles: Particles = 1000
    """K, draws per image of the scorer."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Timings of the scorer and of each loop; medians are compared."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    import pyro

    from experiments.shared.speed.scoring import describe_scoring, particle_images_per_second, peak_mebibytes
    from inference.tracing import own_randomness
    from kpp_pyro.files.run_folder import environment, write_json
    from kpp_pyro.progress import show_progress

    run = arguments.open_run()
    episode, _ = next(run.episodes.test.batches(2))
    with own_randomness(0, run.pair.device), pyro.validation_enabled(False):
        rates = particle_images_per_second(run.pair, episode, arguments.particles, arguments.repeats)
        peaks = {
            str(k): peak_mebibytes(run.pair, episode, k)
            for k in show_progress(_PEAK_PARTICLES, "peak memory", leave=False)
        }
    content = {
        "particles": arguments.particles,
        "images": episode.shape[0] * episode.shape[1],
        "episode_length": episode.shape[1],
        "particle_images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "all_timings": rates,
        "peak_mebibytes_by_particles": peaks,
        **run.pair.sizes(),
        "precision": run.config.precision,
        "environment": environment(),
    }
    path = run.folder.path / "benchmark_scoring.json"
    write_json(path, content)
    print(describe_scoring(content))
    print(path)
    return 0


command = partial(run_script, main)

if __name__ == "__main__":
    sys.exit(command())
