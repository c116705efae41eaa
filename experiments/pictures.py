"""The figures of a run, drawn from its programs, its episodes, its metrics and its scores."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from experiments.build import Program
from inference.randomness import own_randomness
from inference.scoring import OWN
from inference.traces import site_mean, trace_pair
from kpp_pyro import figures
from kpp_pyro.data import EpisodeSet
from kpp_pyro.run_folder import RunFolder

_MEMORIES, _SAMPLES = 4, 16
_SEED = 0  # of the noise in the figures, so that they can be drawn again


def draw_score_figures(run: RunFolder) -> dict[str, Figure]:
    """Draw the figures of a run's evaluation into its folder; returns them by name."""
    content, folder = run.read_evaluation(), run.figures
    own, limit = content["scores"][OWN], content["limit_nats_per_image"]
    return {
        "pareto_k": figures.draw_pareto_k(content["per_image"]["pareto_k"], folder / "pareto_k.png"),
        "bounds": figures.draw_bounds(own["bounds"], own["elbo_nats_per_image"], folder / "bounds.png"),
        "controls": figures.draw_controls(content["scores"], limit, folder / "controls.png"),
    }


@torch.no_grad()
def draw_figures(run: RunFolder, program: Program, episodes: EpisodeSet) -> dict[str, Figure]:
    """Draw every figure of a run into its folder, from the first held-out episodes; returns them by name."""
    with own_randomness(_SEED, program.device):
        episode, _ = next(episodes.batches(_MEMORIES))
        pair = trace_pair(program.model, program.guide, episode)
        samples = program.model.generate(pair.value("memory"), _SAMPLES)
    folder, boxes = run.figures, program.model.addressing.boxes(pair.value("key")[0])
    return {
        "reconstructions": figures.draw_reconstructions(
            episode[0], pair.mean("image")[0], folder / "reconstructions.png"
        ),
        "samples": figures.draw_samples(site_mean(samples, "image"), folder / "samples.png"),
        "memory": figures.draw_memory(pair.value("memory")[0, 0], boxes, folder / "memory.png"),
        "curves": figures.draw_curves(run.read_metrics(), folder / "curves.png"),
    }
