"""The score of a run: importance-sampled ln p(x | M) of held-out images, and its controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pyro
import torch
from torch import Tensor

from inference.importance.scoring import Scores, ScoringPlan, require_annealed, score_episodes
from inference.processes import SINGLE_PROCESS, Processes
from inference.ranges import (
    LARGEST_BITS,
    SMALLEST_BITS,
    ControlParticles,
    Limit,
    Particles,
    RefineSteps,
    Seed,
    Temperatures,
)
from inference.runs.config import Config
from inference.runs.load import Run
from inference.runs.rules import has_blocks, none_where_shared
from inference.tracing import own_randomness
from kpp_pyro.arguments import checked
from kpp_pyro.data import first_images
from kpp_pyro.errors import InputError
from kpp_pyro.networks.heads import constant_weights
from kpp_pyro.progress import show_progress
from kpp_pyro.writes.quantization import Quantization

_IMAGES_AT_ONCE = 64


@checked
@torch.inference_mode(False)
@torch.enable_grad()  # for the refinement of posteriors
def score(
    run: Run,
    *,
    particles: Particles = 1000,
    limit: Limit | None = None,
    split: Literal["test", "validation"] = "test",
    control_particles: ControlParticles = 0,
    refine_steps: RefineSteps = 0,
    temperatures: Temperatures = 0,
    seed: Seed = 0,
    processes: Processes = SINGLE_PROCESS,
    progress: bool = True,
) -> Scores:
    """Estimate ln p(x | M) of held-out images by importance sampling, M being the memory of the image's own episode.

    Args:
        run: the run to score.
        particles: K, draws per image.
        limit: score only the first N images; None: all.
        split: the held-out images.
        control_particles: K of the controls, 0 for no controls. A control reads the image from a memory that was not
            written from it: of the other images of its episode, of another episode, or an empty one.
        refine_steps: SVI steps that refine the posterior of each image; a refined posterior is added to the proposal.
        temperatures: of annealed importance sampling, for images of which one normal is all that is random: those of
            `vae`, and the controls where a prior of memories predicts the next block. 0 for importance sampling.
        seed: of the draws; the outer random state does not change.
        processes: those that share the images.
        progress: whether to show a progress bar.

    Returns:
        Scores in nats per image; `scores.own.log_likelihood` is ln p-hat_K of each image, (N,).

    Raises:
        InputError: a number out of range, a single particle with `refine_steps`, temperatures where nothing can be
            annealed, or a data set that cannot be loaded.
    """
    if refine_steps and particles < 2:
        raise InputError(f"particles: expected at least 2 with refine_steps, one of each proposal, found {particles}")
    episodes = run.episodes.of(split)
    # At least two episodes per batch: a control reads the memory of another one.
    batches = episodes.batches(max(2, _IMAGES_AT_ONCE // episodes.episode_length))
    images = min(episodes.num_images, limit or episodes.num_images)
    plan = ScoringPlan(particles, refine_steps, control_particles, temperatures)
    if temperatures:
        with own_randomness(seed, run.pair.device):
            require_annealed(run.pair.model, run.pair.guide, episodes.first().unsqueeze(0), plan)
    progress_bar = show_progress(label="scoring", total=images, unit="image", disable=not progress)
    with progress_bar as bar, pyro.validation_enabled(False), constant_weights(run.pair.device):
        counting = _advancing(first_images(batches, images), bar)
        return score_episodes(run.pair.model, run.pair.guide, counting, plan, seed, processes)


def _advancing(batches: Iterable[tuple[Tensor, Tensor]], bar: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches; a bar advances by the counted images of each batch when the next is taken."""
    for episode, counted in batches:
        yield episode, counted
        bar.update(int(counted.sum()))


def quantize(run: Run, bits: int) -> None:
    """Round every scalar that the run's guide writes from now on to a number of bits.

    Args:
        run: the run; its guide is changed.
        bits: bits per scalar, 1 to 16.

    Raises:
        InputError: bits out of range, or contents that cannot be rounded.
    """
    for expected in _conflicts_of_rounding(run.config, bits):
        raise InputError(f"--content-bits: expected {expected}, found {bits}")
    run.pair.guide.preparations += (Quantization(bits),)


def _conflicts_of_rounding(config: Config, bits: int) -> Iterator[str]:
    if not SMALLEST_BITS <= bits <= LARGEST_BITS:
        yield f"{SMALLEST_BITS} to {LARGEST_BITS}, or none"
    if not has_blocks(config):
        yield f"none with --model {config.program.model}, which does not use it"
    if config.memory.signs_per_scalar is not None:
        yield "none with --signs-per-scalar, which sets the bits"
    if config.program.memory_guide != "point":
        yield f"none with --memory-guide {config.program.memory_guide}, whose memory is random"
    if what := none_where_shared(config):
        yield what
