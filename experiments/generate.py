"""Generation: samples from memories, reads of a grid of keys, interpolation, and whole episodes from the prior.

python experiments/generate.py runs/mnist
python experiments/generate.py runs/mnist --samples 5000 --clean-up 10
python experiments/generate.py runs/characters --from-prior --memories 64
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from experiments.shared.arguments import HeldOutArguments
from experiments.shared.command_line import parse
from experiments.shared.script import print_figures, run_script
from inference.ranges import Reads, Samples, Temperature
from kpp_pyro.config_part import flag
from kpp_pyro.errors import InputError
from kpp_pyro.schema import Count

if TYPE_CHECKING:
    from inference.runs.load import Run
    from kpp_pyro.data import EpisodeSet


@dataclass(frozen=True)
class Arguments(HeldOutArguments):
    """Generate images from memories of held-out episodes: keys from the prior, then latents and images.

    Measures the share of written images that samples reproduce (coverage), the share of samples near no written image
    (novelty), and the distances to written and to training images, each also after iterative reading (clean-up).
    Distances are wrong pixels, or squared errors per dimension of images of grey levels.
    RUN/generate.json holds everything printed; RUN/figures holds the figures, with a walk through keys and
    interpolations.

    With --from-prior, whole memories are sampled instead, without an image: of a run whose --memory-prior is not flat.
    Measures whether their images belong together: distances within and between episodes, beside those of real ones, and
    distances to training images. RUN/from_prior.json holds everything printed; RUN/figures holds the sampled episodes,
    and real ones that the prior continues.
    """

    samples: Samples = 1000
    """Images sampled from each memory; not with --from-prior."""
    memories: Count = 8
    """Number of held-out episodes, each written to its own memory; with --from-prior, also of sampled memories."""
    clean_up: Reads = 5
    """Reads of the clean-up: a sample is the first cue, and each result the next; not with --from-prior."""
    from_prior: bool = False
    """Sample memories from the prior of memories, and continue real ones."""
    temperature: Temperature = 1.0
    """With --from-prior: deviation of every scalar of a sampled memory, relative to the prior's. Below 1, samples are
    more typical and less various."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, argv)
    if arguments.from_prior:
        return generate_from_prior(arguments)
    if arguments.temperature != Arguments.temperature:
        raise InputError(f"--temperature: expected none without --from-prior, found {arguments.temperature}")
    return generate(arguments)


def generate(arguments: Arguments) -> int:
    """Generate from memories of held-out episodes; returns the exit status."""
    from experiments.shared.generation_table import describe_generation
    from inference.runs.plots import plot_generation_figures

    run = arguments.open_run()
    episodes = arguments.episodes(run)
    if len(episodes) < arguments.memories + 1:
        raise InputError(
            f"--memories: expected at most {len(episodes) - 1}, one less than the {arguments.split} episodes, "
            f"found {arguments.memories}"
        )
    content = report(run, episodes, arguments)
    run.folder.write_generation(content)
    print(describe_generation(run.folder.read_generation()))
    print_figures(run.folder, plot_generation_figures(run))
    return 0


def generate_from_prior(arguments: Arguments) -> int:
    """Generate memories from their prior; returns the exit status."""
    from experiments.shared.generation_table import describe_from_prior
    from inference.runs.plots import plot_from_prior_figures

    for name in ("samples", "clean_up"):
        if getattr(arguments, name) != getattr(Arguments, name):
            raise InputError(f"{flag(name)}: expected none with --from-prior, found {getattr(arguments, name)}")
    run = arguments.open_run()
    run.folder.write_from_prior(report_from_prior(run, arguments))
    print(describe_from_prior(run.folder.read_from_prior()))
    print_figures(run.folder, plot_from_prior_figures(run))
    return 0


def report(run: Run, episodes: EpisodeSet, arguments: Arguments) -> dict[str, Any]:
    """The content of generate.json."""
    from inference.importance.estimator import standard_error
    from inference.metrics.generation import Generation, measure, near_distance, nearest, summarize_generation
    from inference.tracing import own_randomness
    from kpp_pyro.files.run_folder import environment
    from kpp_pyro.progress import show_progress

    images, counted = next(episodes.batches(arguments.memories + 1))  # one more: another episode for the last memory
    distance, training = run.memory.distance, run.episodes.train.all_images()
    to_training = nearest(images[:-1].flatten(0, 1), training, distance)
    near = near_distance(to_training)
    measured: dict[str, list[Generation]] = {"prior": [], "cleaned_up": []}
    with own_randomness(arguments.seed, run.pair.device):
        for index in show_progress(range(arguments.memories), "generating", unit="memory"):
            memory = run.memory.write(images[index])
            drawn = run.memory.generate(memory, arguments.samples).images
            cleaned = run.memory.recall(memory, drawn, arguments.clean_up)[-1].images
            for name, samples in (("prior", drawn), ("cleaned_up", cleaned)):
                others = images[index + 1][counted[index + 1]]  # without the padding of a short episode
                measured[name].append(measure(samples, images[index], others, training, near, distance))
    given = {name: getattr(arguments, name) for name in ("samples", "memories", "clean_up")}
    return {
        "settings": {**arguments.settings(run), **given},
        f"near_{distance.name}": near,
        f"written_to_nearest_training_{distance.name}": to_training.distance.mean().item(),
        "written_to_nearest_training_standard_error": standard_error(to_training.distance.double()),
        "results": {name: summarize_generation(memories, distance) for name, memories in measured.items()},
        "environment": environment(),
    }


def report_from_prior(run: Run, arguments: Arguments) -> dict[str, Any]:
    """The content of from_prior.json."""
    from inference.metrics.coherence import summarize_coherence
    from inference.runs.config import naming
    from kpp_pyro.files.run_folder import environment

    trained, number, seed = run.memory, arguments.memories, arguments.seed
    real = arguments.episodes(run).whole(number)
    if len(real) < number:
        found = f"the {arguments.split} episodes without padding, found {number}"
        raise InputError(f"--memories: expected at most {len(real)}, {found}")
    with naming(run.folder.path):
        sampled = trained.sample_memory(run.config.data.images_per_episode, number, seed, arguments.temperature)
    episodes = {
        "sampled": trained.read_written(sampled).images,
        "read_back": trained.read_written(trained.write(real, seed)).images,
        "real": real,
    }
    training = run.episodes.train.all_images()
    return {
        "settings": {
            **arguments.settings(run),
            "memory_prior": run.config.program.memory_prior,
            "memories": number,
            "temperature": arguments.temperature,
        },
        "results": {name: summarize_coherence(of, training, trained.distance) for name, of in episodes.items()},
        "environment": environment(),
    }


command = partial(run_script, main)

if __name__ == "__main__":
    sys.exit(command())
