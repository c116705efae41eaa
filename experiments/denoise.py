"""Iterative reading: damaged copies of written images, recalled read by read.

python experiments/denoise.py runs/mnist
python experiments/denoise.py runs/mnist --noise salt_and_pepper --strength 0.2 0.4 --steps 20
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from tqdm import tqdm

from experiments.shared.arguments import HeldOutArguments, require_at_least
from experiments.shared.denoise_table import describe_denoising
from experiments.shared.script import run_script
from inference.metrics.denoising import Denoising, compare_first_with_last, denoise, of_images, summarize_errors
from inference.runs.load import Run
from inference.runs.plots import plot_denoising_figures
from kpp_pyro.config_part import did_you_mean
from kpp_pyro.corruptions import CORRUPTIONS, corrupt
from kpp_pyro.data import EpisodeSet, first_images
from kpp_pyro.errors import InputError
from kpp_pyro.files.run_folder import environment, write_json

_EPISODES_AT_ONCE = 8


@dataclass(frozen=True)
class Arguments(HeldOutArguments):
    """Recall damaged copies of written images, read by read: x <- decode(read(M, q(y | x, M))).

    After every read: wrong pixels and nats, with standard errors, beside one read, the same networks without the
    memory, and the nearest written image; where iterating helps, and how often it drifts to another image. Everything
    printed is also in RUN/denoise.json; figures are in RUN/figures.
    """

    noise: tuple[str, ...] = tuple(CORRUPTIONS)
    """salt_and_pepper (pixels black or white), speckle (bright pixels flicker), poisson (few photons), mask (a square
    is missing)."""
    strength: tuple[float, ...] | None = None
    """Share of pixels (salt_and_pepper, mask), standard deviation (speckle), 1 / photons (poisson); several of each
    noise if None."""
    steps: int = 10
    """Reads."""
    limit: int = 1024
    """Only the first N images."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = tyro.cli(Arguments, args=argv)
    require_sensible(arguments)
    run = arguments.open_run()
    content = report(run, arguments.episodes(run), arguments)
    write_json(run.folder.denoising, content)
    print(describe_denoising(run.folder.read_denoising()))
    for name in plot_denoising_figures(run):
        print(run.folder.figures / f"{name}.png")
    return 0


def cases(arguments: Arguments) -> Iterator[tuple[str, float]]:
    """Every noise and strength asked for."""
    for noise in dict.fromkeys(arguments.noise):
        for strength in dict.fromkeys(arguments.strength or CORRUPTIONS[noise].strengths):
            yield noise, strength


def require_sensible(arguments: Arguments) -> None:
    """Raise InputError for a number that no denoising can use."""
    require_at_least(arguments, {"steps": 1, "limit": 1, "seed": 0})
    if not arguments.noise:
        raise InputError("--noise: expected at least one, found none")
    unknown = next((noise for noise in arguments.noise if noise not in CORRUPTIONS), None)
    if unknown is not None:
        near = did_you_mean(unknown, CORRUPTIONS)
        raise InputError(f"--noise: expected one of {', '.join(CORRUPTIONS)}, found {unknown!r}{near}")
    for noise, strength in cases(arguments):
        corrupt(torch.zeros(1, 2, 2), noise, strength)  # refuses what it cannot have


def report(run: Run, episodes: EpisodeSet, arguments: Arguments) -> dict[str, Any]:
    """Everything that is found, as plain data."""
    wanted, images = list(cases(arguments)), min(episodes.num_images, arguments.limit)
    with tqdm(total=len(wanted) * images, unit="image", desc="denoising", dynamic_ncols=True) as bar:
        results = [
            summarize(noise, strength, denoise_all(run, episodes, noise, strength, arguments, bar))
            for noise, strength in wanted
        ]
    return {
        "settings": {**arguments.settings(run), "images": images, "steps": arguments.steps},
        "results": results,
        "environment": environment(),
    }


def denoise_all(
    run: Run, episodes: EpisodeSet, noise: str, strength: float, arguments: Arguments, bar: Any
) -> Denoising:
    """Errors of all images asked for."""
    generator = torch.Generator().manual_seed(arguments.seed)
    parts = []
    for images, counted in first_images(episodes.batches(_EPISODES_AT_ONCE), arguments.limit):
        damaged = corrupt(images, noise, strength, generator)
        parts.append((denoise(run.memory, images, damaged, arguments.steps), counted))
        bar.update(int(counted.sum()))
    return of_images(parts)


def summarize(noise: str, strength: float, found: Denoising) -> dict[str, Any]:
    """Means and standard errors over the images, and what iterating changes."""
    return {
        "noise": noise,
        "strength": strength,
        "cue_wrong_pixels_per_image": found.cue.double().mean().item(),
        "recall": summarize_errors(found.recall),
        "completion": summarize_errors(found.completion) if noise == "mask" else None,
        "memoryless": summarize_errors(found.memoryless),
        "nearest_written": summarize_errors(found.nearest),
        "iterating": compare_first_with_last(found.recall),
    }


if __name__ == "__main__":
    sys.exit(run_script(main))
