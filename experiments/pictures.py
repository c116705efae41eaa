"""The figures of a run, drawn from its programs, its episodes and its metrics."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from pyro import poutine

from experiments.build import Program
from kpp_pyro import figures
from kpp_pyro.data import EpisodeSet
from kpp_pyro.run_folder import RunFolder

_MEMORIES, _SAMPLES = 4, 16
_SEED = 0  # of the noise in the figures, so that they can be drawn again


@torch.no_grad()
def draw_figures(run: RunFolder, program: Program, episodes: EpisodeSet) -> dict[str, Figure]:
    """Draw every figure of a run into its folder, from the first held-out episodes; returns them by name."""
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        episode, _ = next(episodes.batches(_MEMORIES))
        guide_trace = poutine.trace(program.guide).get_trace(episode)
        model_trace = poutine.trace(poutine.replay(program.model, trace=guide_trace)).get_trace(episode)
        memory, key = guide_trace.nodes["memory"]["value"], guide_trace.nodes["key"]["value"]
        samples = program.model.generate(memory, _SAMPLES)
    boxes = program.model.addressing.boxes(key[0])
    drawn = {
        "reconstructions": lambda path: figures.draw_reconstructions(
            episode[0], model_trace.nodes["image"]["fn"].mean[0], path
        ),
        "samples": lambda path: figures.draw_samples(samples.nodes["image"]["fn"].mean, path),
        "memory": lambda path: figures.draw_memory(memory[0, 0], boxes, path),
        "curves": lambda path: figures.draw_curves(run.read_metrics(), path),
    }
    return {name: draw(run.figures / f"{name}.png") for name, draw in drawn.items()}
