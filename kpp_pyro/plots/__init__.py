"""Figures of a run. Each function plots one Matplotlib figure, and writes it to a file if a path is given."""

from kpp_pyro.plots.ablation import plot_ablation
from kpp_pyro.plots.figures import plot_image_table
from kpp_pyro.plots.generation import (
    plot_completion,
    plot_coverage,
    plot_episodes_from_prior,
    plot_generation,
    plot_interpolation,
    plot_key_walk,
)
from kpp_pyro.plots.growth import plot_growth, plot_memory_costs
from kpp_pyro.plots.images import plot_reconstructions, plot_samples
from kpp_pyro.plots.memory import plot_memory, plot_memory_at_work
from kpp_pyro.plots.recall import plot_denoising, plot_denoising_curves, plot_recall
from kpp_pyro.plots.scores import plot_bounds, plot_controls, plot_pareto_k, plot_positions
from kpp_pyro.plots.training import plot_comparison, plot_curves

__all__ = [
    "plot_ablation",
    "plot_bounds",
    "plot_comparison",
    "plot_completion",
    "plot_controls",
    "plot_coverage",
    "plot_curves",
    "plot_denoising",
    "plot_denoising_curves",
    "plot_episodes_from_prior",
    "plot_generation",
    "plot_growth",
    "plot_image_table",
    "plot_interpolation",
    "plot_key_walk",
    "plot_memory",
    "plot_memory_at_work",
    "plot_memory_costs",
    "plot_pareto_k",
    "plot_positions",
    "plot_recall",
    "plot_reconstructions",
    "plot_samples",
]
