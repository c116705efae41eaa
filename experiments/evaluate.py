"""Score a run: importance-sampled ln p(x | M) of held-out images, and of controls.

python experiments/evaluate.py runs/mnist --limit 1000
python experiments/evaluate.py runs/mnist --particles 5000 --gaps
torchrun --nproc-per-node 8 experiments/evaluate.py runs/mnist   # the same numbers, from 8 processes
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from experiments.shared.arguments import HeldOutArguments
from experiments.shared.command_line import parse
from experiments.shared.script import print_figures, run_shared_script
from inference.processes import SINGLE_PROCESS, Processes
from inference.ranges import ContentBits, ControlParticles, Limit, Particles, RefineSteps, Temperatures
from kpp_pyro.schema import Count, Natural

if TYPE_CHECKING:
    from torch import Tensor

    from inference.importance.complete import CompleteScore
    from inference.importance.scoring import Scores
    from inference.runs.config import Config
    from inference.runs.load import Run
    from kpp_pyro.data import EpisodeSet

_POSTERIOR_DRAWS = 4000


@dataclass(frozen=True)
class Arguments(HeldOutArguments):
    """Score a run: ln p(x | M) of held-out images by importance sampling, in nats per image, with standard errors.

    M is the memory of the image's own episode. Three controls have other memories: of the other images of the episode,
    of another episode, and an empty one. For a memory with a prior there is also the complete score, ln p(X), which
    includes the KL of the memory. RUN/evaluation.json holds everything printed.
    """

    particles: Particles = 1000
    """K, draws per image."""
    limit: Limit | None = None
    """Score only the first N images of the split. None: all."""
    gaps: bool = False
    """Refine the posterior of each image by SVI. This splits ln p-hat_K - ELBO into amortisation and approximation gap;
    the refined posteriors are added to the proposal."""
    refine_steps: Annotated[RefineSteps, Field(ge=1)] = 300
    """SVI steps per image with --gaps."""
    temperatures: Temperatures = 0
    """Temperatures of annealed importance sampling: each draw becomes a chain of Hamiltonian steps, one for each
    temperature between the posterior of the guide and the true one, so that 200 draws are worth more than many thousand
    others. For images of which one normal is all that is random: those of --model vae, and the controls where a prior
    of memories predicts the next block, but not the complete score. 0: importance sampling."""
    control_particles: ControlParticles = 200
    """K, draws per image of each control, after a search for its keys. 0: no controls."""
    classes_per_episode: Count | None = None
    """Number of classes that the images of an episode are drawn from. None: as in training."""
    content_steps: Natural | None = None
    """Gradient steps that improve each image's content before it is written. None: as in the run's configuration."""
    content_bits: ContentBits | None = None
    """Round every written scalar to this many bits, 1 to 16, between -m and m; m is the largest scalar of the image.
    One bit is the sign, and m is then the mean absolute value. None: 32-bit floats."""
    posterior_images: Natural = 8
    """Save posterior draws of keys and latents of the first N images to RUN/posterior.nc, for ArviZ. 0: none, which
    saves minutes where images are in colour."""


def main(argv: Sequence[str] | None = None, processes: Processes = SINGLE_PROCESS) -> int:
    """Run the script, as one of several processes if there are any; returns its exit status."""
    with processes.sync_errors():
        arguments = parse(Arguments, argv)
        arguments = replace(arguments, run=arguments.path(processes), pretrained=None)
    from experiments.shared.score_table import describe_scores
    from inference.runs.plots import plot_score_figures

    with processes.sync_errors():
        run = load_run(arguments, processes)
        episodes = arguments.episodes(run)
    scores = score_run(run, arguments, processes)
    if processes.is_first:
        print(describe_scores(write_reports(run, episodes, arguments, scores, processes)))
        print_figures(run.folder, plot_score_figures(run.folder))
    return 0


def load_run(arguments: Arguments, processes: Processes) -> Run:
    """Load the run, with the changes of the command line."""
    from inference.runs.score import quantize

    names = ("classes_per_episode", "content_steps")
    changes = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    run = arguments.open_run(processes, **changes)
    if arguments.content_bits is not None:
        quantize(run, arguments.content_bits)
    return run


def score_run(run: Run, arguments: Arguments, processes: Processes = SINGLE_PROCESS) -> Scores:
    """Score the images of the command line, with a progress bar."""
    from inference.runs.score import score

    return score(
        run,
        particles=arguments.particles,
        limit=arguments.limit,
        split=arguments.split,
        control_particles=arguments.control_particles,
        refine_steps=arguments.refine_steps if arguments.gaps else 0,
        temperatures=arguments.temperatures,
        seed=arguments.seed,
        processes=processes,
    )


def write_reports(
    run: Run, episodes: EpisodeSet, arguments: Arguments, scores: Scores, processes: Processes = SINGLE_PROCESS
) -> dict[str, Any]:
    """Write evaluation.json and posterior.nc; returns the content of evaluation.json."""
    from inference.posterior.arviz_data import save

    posterior = posterior_draws(run, episodes, arguments) if arguments.posterior_images else None
    content = report(run, episodes, arguments, scores, processes)
    if posterior is not None:
        save(posterior, run.folder.posterior)
    run.folder.write_evaluation(content)
    return content


def posterior_draws(run: Run, episodes: EpisodeSet, arguments: Arguments) -> Any:
    """Posterior draws of the first images of the first episode, as ArviZ data; None if nothing but M is random."""
    import pyro

    from inference.importance.estimator import weighted_draws, widened_proposal
    from inference.importance.scoring import given_memory, sample_memory
    from inference.posterior.arviz_data import posterior_data
    from inference.tracing import own_randomness

    model, guide = run.pair.model, run.pair.guide
    episode, _ = next(episodes.batches(1))
    with own_randomness(arguments.seed, run.pair.device), pyro.validation_enabled(False):
        sampled = sample_memory(model, guide, episode)
        if sampled is not None and sampled.is_all:
            return None
        given = given_memory(model, guide, episode, sampled)
        proposal = widened_proposal(*given, episode)
        draws = weighted_draws(given[0], proposal, episode, particles=_POSTERIOR_DRAWS)
        return posterior_data(draws, episode, images=arguments.posterior_images)


def report(
    run: Run, episodes: EpisodeSet, arguments: Arguments, scores: Scores, processes: Processes = SINGLE_PROCESS
) -> dict[str, Any]:
    """The content of evaluation.json."""
    from inference.importance.complete import summarize_complete
    from inference.importance.scoring import OWN, inference_gap, summarize
    from kpp_pyro.files.run_folder import environment
    from kpp_pyro.likelihoods import bits_per_dim

    own = scores.own
    pixels, images = math.prod(run.pair.model.image_shape), len(own.log_likelihood)
    places = {name: numbers[:images] for name, numbers in episodes.places().items()}
    controls = {name: score for name, score in scores.by_memory.items() if name != OWN}
    return {
        "settings": {
            **arguments.settings(run),
            "content_bits": arguments.content_bits,
            "images": images,
            "pixels": pixels,
            "particles": arguments.particles,
            "control_particles": arguments.control_particles,
            "refine_steps": arguments.refine_steps if arguments.gaps else 0,
            "temperatures": arguments.temperatures,
        },
        "scores": {name: summarize(score) for name, score in scores.by_memory.items()},
        "memory_kl_nats_per_image": None if scores.memory_kl is None else scores.memory_kl.mean().item(),
        "complete": None
        if scores.complete is None
        else summarize_complete(scores.complete, arguments.particles, places),
        "limit_nats_per_image": limit_nats_per_image(run.config),
        "log_likelihood_bits_per_dim": bits_per_dim(own.log_likelihood.mean().item(), run.pair.model.image_shape),
        "gaps": inference_gap(own) if arguments.gaps else None,
        "seconds": {name: round(seconds, 2) for name, seconds in scores.seconds.items()},
        "particle_images_per_second": round(images * arguments.particles * processes.count / scores.seconds[OWN]),
        "environment": {**environment(), "processes": processes.count},
        "per_image": {
            **{name: numbers.tolist() for name, numbers in places.items()},
            "elbo_nats": _rounded(own.elbo.elbo),
            "log_likelihood_nats": _rounded(own.log_likelihood),
            "pareto_k": _rounded(own.pareto_k),
            **{f"{name}_log_likelihood_nats": _rounded(score.log_likelihood) for name, score in controls.items()},
            **({} if scores.complete is None else complete_of_images(scores.complete)),
        },
    }


def complete_of_images(score: CompleteScore) -> dict[str, list[float]]:
    """Complete scores of each image."""
    return {
        "complete_log_likelihood_nats": _rounded(score.log_likelihood),
        "complete_elbo_nats": _rounded(score.elbo),
        "complete_pareto_k": _rounded(score.pareto_k),
    }


def limit_nats_per_image(config: Config) -> float:
    """ln p(x | M) of a perfect memory: -ln T, to say which image it is; 0 where the order of the images says it."""
    from inference.runs.rules import has_blocks

    in_order = has_blocks(config) and config.program.read_order == "sequence"
    return 0.0 if in_order else -math.log(config.data.images_per_episode)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


command = partial(run_shared_script, lambda processes: main(processes=processes))

if __name__ == "__main__":
    sys.exit(command())
