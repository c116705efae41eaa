"""Figures of a run, one function each: tensors in, a Matplotlib figure out, and a PNG file if a path is given."""

from kpp_pyro.plots.ablation import draw_ablation
from kpp_pyro.plots.drawing import draw_image_table
from kpp_pyro.plots.generation import draw_coverage, draw_generation, draw_interpolation, draw_key_walk
from kpp_pyro.plots.growth import draw_growth, draw_memory_costs
from kpp_pyro.plots.images import draw_reconstructions, draw_samples
from kpp_pyro.plots.memory import draw_memory, draw_memory_at_work
from kpp_pyro.plots.recall import draw_denoising, draw_denoising_curves
from kpp_pyro.plots.scores import draw_bounds, draw_controls, draw_pareto_k
from kpp_pyro.plots.training import draw_comparison, draw_curves

__all__ = [
    "draw_ablation",
    "draw_bounds",
    "draw_comparison",
    "draw_controls",
    "draw_coverage",
    "draw_curves",
    "draw_denoising",
    "draw_denoising_curves",
    "draw_generation",
    "draw_growth",
    "draw_image_table",
    "draw_interpolation",
    "draw_key_walk",
    "draw_memory",
    "draw_memory_at_work",
    "draw_memory_costs",
    "draw_pareto_k",
    "draw_reconstructions",
    "draw_samples",
]
