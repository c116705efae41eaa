"""The score of a run: importance-sampled ln p(x | M) of held-out images, beside controls that say what it means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pyro
from torch import Tensor
from tqdm import tqdm

from inference.importance.scoring import Scores, ScoringPlan, score_episodes
from inference.processes import SINGLE_PROCESS, Processes
from inference.runs.config import Config
from inference.runs.load import Run
from inference.runs.rules import has_blocks
from kpp_pyro.data import first_images
from kpp_pyro.errors import InputError
from kpp_pyro.writes.quantization import LARGEST_BITS, SMALLEST_BITS, Quantization

_IMAGES_AT_ONCE = 64


def score(
    run: Run,
    *,
    particles: int = 1000,
    limit: int | None = None,
    split: Literal["test", "validation"] = "test",
    control_particles: int = 0,
    refine_steps: int = 0,
    seed: int = 0,
    processes: Processes = SINGLE_PROCESS,
    progress: bool = True,
) -> Scores:
    """Estimate ln p(x | M) of held-out images, each read from the memory that its own episode writes.

    Args:
        run: what to score.
        particles: K, draws of each image.
        limit: only the first so many images; all if None.
        split: which images.
        control_particles: K of the controls (a memory that the image was left out of, another episode's, an empty one);
            0 leaves them out.
        refine_steps: of each image's own posterior, which then also proposes; 0 takes none.
        seed: of the draws; the random state outside stays as it is.
        processes: those that share the images.
        progress: whether to show a progress bar.

    Returns:
        Scores in nats per image; `scores.own.log_likelihood` is ln p-hat_K of each, (N,).

    Raises:
        InputError: a number below its least, or a data set that cannot be had.
    """
    least = {"particles": 1, "limit": 1, "control_particles": 0, "refine_steps": 0}
    given = {
        "particles": particles,
        "limit": limit,
        "control_particles": control_particles,
        "refine_steps": refine_steps,
    }
    for name, value in given.items():
        if value is not None and value < least[name]:
            raise InputError(f"{name}: expected at least {least[name]}, found {value}")
    episodes = run.episodes.of(split)
    batches = episodes.batches(max(2, _IMAGES_AT_ONCE // episodes.episode_length))  # two, so that there is another
    images = min(episodes.num_images, limit or episodes.num_images)
    plan = ScoringPlan(particles, refine_steps, control_particles)
    shown = tqdm(total=images, unit="image", desc="scoring", dynamic_ncols=True, disable=not progress)
    with shown as bar, pyro.validation_enabled(False):
        watched = _watched(first_images(batches, images), bar)
        return score_episodes(run.pair.model, run.pair.guide, watched, plan, seed, processes)


def _watched(batches: Iterable[tuple[Tensor, Tensor]], bar: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Go through batches and advance a bar by the images that count, as each is left behind."""
    for episode, counted in batches:
        yield episode, counted
        bar.update(int(counted.sum()))


def quantize(run: Run, bits: int) -> None:
    """Round each scalar that a run writes to so many bits, from now on: what a memory of so many bits is worth.

    Raises:
        InputError: a number of bits that scalars cannot have, or contents that cannot be rounded.
    """
    for expected in _conflicts_of_rounding(run.config, bits):
        raise InputError(f"--content-bits: expected {expected}, found {bits}")
    run.pair.guide.preparations += (Quantization(bits),)


def _conflicts_of_rounding(config: Config, bits: int) -> Iterator[str]:
    if not SMALLEST_BITS <= bits <= LARGEST_BITS:
        yield f"{SMALLEST_BITS} to {LARGEST_BITS}, or none"
    if not has_blocks(config):
        yield f"none with --model {config.program.model}, which has no use for it"
    if config.memory.signs_per_scalar is not None:
        yield "none with --signs-per-scalar, which says the bits"
    reads, blocks = config.data.episode_length * config.memory.reads, config.memory.layout.blocks
    if reads > blocks:
        yield f"none where {reads} reads of an episode share the memory's {blocks} blocks, which hold means then"
