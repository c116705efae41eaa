"""Iterative reading: corrupted copies of written images, recalled read by read.

python experiments/denoise.py runs/mnist
python experiments/denoise.py runs/mnist --corruption salt_and_pepper --strength 0.2 0.4 --steps 20
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from experiments.shared.arguments import HeldOutArguments
from experiments.shared.command_line import parse
from experiments.shared.script import print_figures, run_script
from inference.ranges import Limit, Reads
from kpp_pyro.errors import InputError

if TYPE_CHECKING:
    from inference.metrics.denoising import Denoising
    from inference.runs.load import Run
    from kpp_pyro.data import EpisodeSet
    from kpp_pyro.distances import Distance

_EPISODES_AT_ONCE = 8


@dataclass(frozen=True)
class Arguments(HeldOutArguments):
    """Recall corrupted copies of written images, read by read: x <- decode(read(M, q(y | x, M))).

    After every read: wrong pixels and -ln p(x | z) in nats per image, with standard errors; for images of grey levels,
    the squared error per dimension and its PSNR in place of wrong pixels. For comparison: one read, the same networks
    without the memory, and the nearest written image. RUN/denoise.json holds everything printed; RUN/figures holds the
    figures.
    """

    corruption: tuple[str, ...] | None = None
    """Corruptions of the cues, such as salt_and_pepper (pixels become black or white), gaussian (additive noise) or
    mask (a rectangle is black, and known to be missing). None: all."""
    strength: tuple[float, ...] | None = None
    """Strengths of each corruption, in its unit, such as a share of the pixels. None: several of each corruption."""
    steps: Reads = 10
    """Reads of each cue; each result is the next cue."""
    limit: Limit = 1024
    """Recall only the first N images of the split."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    from experiments.shared.denoise_table import describe_denoising
    from inference.runs.plots import plot_denoising_figures
    from inference.runs.plugins import load_installed

    load_installed()  # a corruption may be of one of them
    require_valid(arguments)
    run = arguments.open_run()
    content = report(run, arguments.episodes(run), arguments)
    run.folder.write_denoising(content)
    print(describe_denoising(run.folder.read_denoising()))
    print_figures(run.folder, plot_denoising_figures(run))
    return 0


def cases(arguments: Arguments) -> Iterator[tuple[str, float]]:
    """Every corruption with each of its strengths.

    Raises:
        InputError: an unknown corruption.
    """
    from kpp_pyro.corruptions import CORRUPTIONS, find_corruption

    for corruption in dict.fromkeys(CORRUPTIONS if arguments.corruption is None else arguments.corruption):
        for strength in dict.fromkeys(arguments.strength or find_corruption(corruption).strengths):
            yield corruption, strength


def require_valid(arguments: Arguments) -> None:
    """Raise InputError for a corruption or strength that cannot be applied."""
    import torch

    from kpp_pyro.corruptions import corrupt

    try:
        for corruption, strength in cases(arguments):
            corrupt(torch.zeros(1, 2, 2), corruption, strength)  # raises for an invalid strength
    except InputError as error:
        raise InputError(f"--{error}") from error  # `corrupt` names its argument, here a flag


def report(run: Run, episodes: EpisodeSet, arguments: Arguments) -> dict[str, Any]:
    """The content of denoise.json: settings, and results by corruption and strength."""
    from kpp_pyro.files.run_folder import environment
    from kpp_pyro.progress import show_progress

    all_cases, images = list(cases(arguments)), min(episodes.num_images, arguments.limit)
    distance = run.memory.distance
    with show_progress(label="denoising", total=len(all_cases) * images, unit="image") as bar:
        results = [
            summarize(
                corruption,
                strength,
                denoise_all(run, episodes, corruption, strength, arguments, bar),
                distance,
            )
            for corruption, strength in all_cases
        ]
    return {
        "settings": {**arguments.settings(run), "images": images, "steps": arguments.steps},
        "results": results,
        "environment": environment(),
    }


def denoise_all(
    run: Run, episodes: EpisodeSet, corruption: str, strength: float, arguments: Arguments, bar: Any
) -> Denoising:
    """Errors of the first `arguments.limit` images, with one corruption and strength."""
    import torch

    from inference.metrics.denoising import denoise, of_images
    from kpp_pyro.corruptions import corrupt
    from kpp_pyro.data import first_images

    generator = torch.Generator().manual_seed(arguments.seed)
    parts = []
    for images, counted in first_images(episodes.batches(_EPISODES_AT_ONCE), arguments.limit):
        corrupted = corrupt(images, corruption, strength, generator)
        parts.append((denoise(run.memory, images, corrupted, arguments.steps), counted))
        bar.update(int(counted.sum()))
    return of_images(parts)


def summarize(corruption: str, strength: float, errors: Denoising, distance: Distance) -> dict[str, Any]:
    """Means and standard errors over the images, and the change from the first read to the last."""
    from inference.metrics.denoising import compare_first_with_last, summarize_cue, summarize_errors
    from kpp_pyro.corruptions import find_corruption

    return {
        "corruption": corruption,
        "strength": strength,
        **summarize_cue(errors.cue, distance),
        "recall": summarize_errors(errors.recall, distance),
        "completion": summarize_errors(errors.completion, distance) if find_corruption(corruption).hides else None,
        "memoryless": summarize_errors(errors.memoryless, distance),
        "nearest_written": summarize_errors(errors.nearest, distance),
        "iterating": compare_first_with_last(errors.recall, distance),
    }


command = partial(run_script, main)

if __name__ == "__main__":
    sys.exit(command())
