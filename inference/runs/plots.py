"""Figures of a run: its training, its scores, denoising, generation, and its memory at work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import kpp_pyro.plots as plots
from inference.importance.scoring import OWN
from inference.metrics.denoising import shown_reads
from inference.runs.config import naming
from inference.runs.load import Run
from inference.tracing import own_randomness, seed_of, site_mean, trace_pair
from inference.trained_memory import Memory, TrainedMemory
from kpp_pyro.corruptions import Corrupted, corrupt, find_corruption
from kpp_pyro.data import EpisodeSet
from kpp_pyro.files.run_folder import RunFolder
from models.pair import Pair

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAMPLED_MEMORIES, _SAMPLES = 4, 16
_DENOISED = 2  # images of each strength
_EPISODES, _COMPLETED, _LONGEST = 6, 3, 16  # episodes, and the most images of each
_GIVEN = (1, 2, 4, 8)  # images that are completed to an episode
_GENERATED, _WALK_IMAGES, _WALK_MOST, _PAIRS = 3, 14, 8, 3
_WORK_CORRUPTION, _WORK_CUES, _WORK_READS = ("salt_and_pepper", 0.3), 10, 5
_SEED = 0  # of the random draws in figures: the same figures again


def plot_score_figures(run: RunFolder) -> dict[str, Figure]:
    """Plot the scores in RUN/evaluation.json into the run's folder; returns the figures by name.

    A model without a memory has no control memories to plot.
    """
    content, folder = run.read_evaluation(), run.figures
    own, limit = content["scores"][OWN], content["limit_nats_per_image"]
    largest = own["pareto_k_limit"]
    figures = {
        "pareto_k": plots.plot_pareto_k(content["per_image"]["pareto_k"], largest, folder / "pareto_k.png"),
        "bounds": plots.plot_bounds(own["bounds"], own["elbo_nats_per_image"], folder / "bounds.png"),
    }
    if content["settings"]["memory_scalars"]:
        scores, complete = content["scores"], content["complete"]
        if complete:
            scores = {**scores, "complete": complete}
            figures["positions"] = plots.plot_positions(complete, folder / "positions.png")
        figures["controls"] = plots.plot_controls(scores, limit, folder / "controls.png")
    return figures


def plot_memory_at_work(run: RunFolder, pair: Pair, episodes: EpisodeSet) -> dict[str, Figure]:
    """Plot an episode, its memory, corrupted cues, their recall, and samples, into a run's folder.

    Args:
        run: its folder.
        pair: model and guide.
        episodes: held-out episodes; the first one is plotted.

    Returns:
        The figure by its name; nothing for a model without a memory.
    """
    if not all(pair.model.memory_shape):
        return {}
    trained, path = TrainedMemory(pair.model, pair.guide), run.figures / "memory_at_work.png"
    images = next(episodes.batches(1))[0][0]
    memory = trained.write(images)
    cues = corrupt(images[:_WORK_CUES], *_WORK_CORRUPTION, torch.Generator().manual_seed(_SEED)).images
    recalled = trained.recall(memory, cues, _WORK_READS)[-1].images
    with own_randomness(_SEED, pair.device):
        samples = trained.generate(memory, 2 * _WORK_CUES).images
    sheet, boxes = memory_sheet(pair, memory.value, trained.locate(memory, images))
    return {"memory_at_work": plots.plot_memory_at_work(images, sheet, boxes, cues, recalled, samples, path)}


def plot_denoising_figures(run: Run) -> dict[str, Figure]:
    """Plot the errors in RUN/denoise.json, and a few of the images, into the run's folder; returns figures by name.

    Figures of other corruptions, left by an earlier denoising, are removed.
    """
    with naming(run.folder.denoising):
        figures = _plot_denoising_figures(run)
    for old in run.folder.figures.glob("denoise_*.png"):
        if old.stem not in figures:
            old.unlink()
    return figures


def _plot_denoising_figures(run: Run) -> dict[str, Figure]:
    content, folder = run.folder.read_denoising(), run.folder.figures
    results, settings = content["results"], content["settings"]
    figures = {"denoise_curves": plots.plot_denoising_curves(results, folder / "denoise_curves.png")}
    images = next(run.episodes.of(settings["split"]).batches(1))[0][0]
    shown = shown_reads(settings["steps"])
    titles = ["clean", "cue", *(f"{step} read{'s' * (step > 1)}" for step in shown)]
    for corruption in dict.fromkeys(result["corruption"] for result in results):
        strengths = [result["strength"] for result in results if result["corruption"] == corruption]
        hides, cases = find_corruption(corruption).hides, {}
        for turn, strength in enumerate(strengths):  # other images for each strength
            corrupted = corrupt(images, corruption, strength, torch.Generator().manual_seed(settings["seed"]))
            rows = _denoised(run.memory, images, corrupted, hides, shown)
            cases[strength] = rows.roll(-turn * _DENOISED, 0)[:_DENOISED]
        known = ["hole known"] if hides else []
        name = f"denoise_{corruption}"
        figures[name] = plots.plot_denoising(corruption, cases, titles + known, folder / f"{name}.png")
    return figures


def _denoised(
    trained: TrainedMemory, images: Tensor, corrupted: Corrupted, hides: bool, reads: Sequence[int]
) -> Tensor:
    """Images (T, C, H, W): clean, corrupted, after some reads, and completed if pixels are hidden; (T, n, C, H, W)."""
    memory = trained.write(images)
    recalled = trained.recall(memory, corrupted.images, max(reads))
    columns = [images, corrupted.images, *(recalled[step - 1].images for step in reads)]
    if hides:
        columns.append(trained.complete(memory, corrupted.images, corrupted.hidden, max(reads))[-1].images)
    return torch.stack(columns, 1)


@torch.no_grad()
def plot_generation_figures(run: Run) -> dict[str, Figure]:
    """Plot the results in RUN/generate.json, and samples of a few memories, into the run's folder; figures by name."""
    content, folder, trained = run.folder.read_generation(), run.folder.figures, run.memory
    settings = content["settings"]
    images = next(run.episodes.of(settings["split"]).batches(_GENERATED))[0]
    memory = trained.write(images)
    with own_randomness(settings["seed"], run.pair.device):
        samples = trained.generate(memory, _SAMPLES).images
    cleaned = trained.recall(memory, samples, settings["clean_up"])[-1].images
    figures = {
        "coverage": plots.plot_coverage(content, folder / "coverage.png"),
        "generation": plots.plot_generation(images[:, :_SAMPLES], samples, cleaned, folder / "generation.png"),
    }
    if run.pair.model.addressing is not None:
        walk = _key_walk(trained, memory[0], images[0, 0])
        figures["key_walk"] = plots.plot_key_walk(walk, folder / "key_walk.png", run.config.memory.reads)
    if images.shape[1] > 1:
        walks = _interpolations(trained, memory[0], images[0])
        figures["interpolation"] = plots.plot_interpolation(walks, folder / "interpolation.png")
    return figures


def _key_walk(trained: TrainedMemory, memory: Memory, image: Tensor) -> dict[str, Tensor]:
    """Reads of keys on a grid, (rows, columns, C, H, W), from the smallest scale to the largest.

    Only the first of R keys moves; the others stay where a written image (C, H, W) has them.
    """
    addressing = trained.addressing
    layout, walks = addressing.layout, {}
    rows, columns = min(layout.rows, _WALK_MOST), min(layout.columns, _WALK_MOST)
    stay = trained.locate(memory, image.unsqueeze(0)).expand(rows * columns, -1, -1)
    for share in (0.0, 0.5, 1.0):
        walk = addressing.key_grid(rows, columns, addressing.scale_at(share))[:, :1].to(stay)
        zoom = 1 + share * (layout.largest_zoom - 1)
        name = f"scale: {zoom * layout.block_height:g}x{zoom * layout.block_width:g} of {layout.height}x{layout.width}"
        keys = torch.cat([walk, stay[:, 1:]], 1)
        walks[name] = trained.read(memory, keys).images.unflatten(0, (rows, columns))
    return walks


def _interpolations(trained: TrainedMemory, memory: Memory, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Interpolations between the first pairs of written images (T, C, H, W), through keys and through latents."""
    ends = images[: 2 * (min(2 * _PAIRS, len(images)) // 2)].unflatten(0, (-1, 2))
    return [
        (
            trained.interpolate(memory, first, last, _WALK_IMAGES, "keys").images,
            trained.interpolate(memory, first, last, _WALK_IMAGES, "latents").images,
        )
        for first, last in ends
    ]


@torch.no_grad()
def plot_from_prior_figures(run: Run) -> dict[str, Figure]:
    """Plot episodes of RUN/from_prior.json, and continued ones, into the run's folder; returns the figures by name."""
    settings, folder, trained = run.folder.read_from_prior()["settings"], run.folder.figures, run.memory
    length, seed, temperature = (settings[name] for name in ("episode_length", "seed", "temperature"))
    real = run.episodes.of(settings["split"]).whole(min(settings["memories"], _EPISODES))
    memories = trained.sample_memory(length, settings["memories"], seed, temperature)
    sampled = trained.read_written(memories).images[: len(real)]
    figures = {
        "episodes_from_prior": plots.plot_episodes_from_prior(
            real[:, :_LONGEST], sampled[:, :_LONGEST], folder / "episodes_from_prior.png"
        )
    }
    if length > 1:
        rows = _completions(trained, real[:_COMPLETED, :_LONGEST], seed, temperature)
        figures["completion"] = plots.plot_completion(rows, folder / "completion.png")
    return figures


def _completions(trained: TrainedMemory, images: Tensor, seed: int, temperature: float) -> list[tuple[Tensor, Tensor]]:
    """The first 1, 2, 4, ... images of each episode (E, T, C, H, W), with as many sampled ones as make T together."""
    length, whole = images.shape[1], {}
    for given in (number for number in _GIVEN if number < length):
        written, own_seed = trained.write(images[:, :given], seed), seed_of(seed, given)
        memory = trained.extend(written, length - given, seed=own_seed, temperature=temperature)
        whole[given] = trained.read_written(memory).images
    return [(own[:given], of[index, given:]) for index, own in enumerate(images) for given, of in whole.items()]


@torch.no_grad()
def plot_figures(run: RunFolder, pair: Pair, episodes: EpisodeSet) -> dict[str, Figure]:
    """Plot reconstructions, samples, curves and the memory into a run's folder; returns the figures by name.

    Args:
        run: its folder.
        pair: model and guide.
        episodes: held-out episodes; the first ones are plotted.
    """
    with own_randomness(_SEED, pair.device):
        episode, _ = next(episodes.batches(_SAMPLED_MEMORIES))
        traced = trace_pair(pair.model, pair.guide, episode)
        samples = pair.model.generate(traced.value("memory"), _SAMPLES)
    folder = run.figures
    figures = {
        "reconstructions": plots.plot_reconstructions(
            episode[0], traced.mean("image")[0], folder / "reconstructions.png"
        ),
        "samples": plots.plot_samples(site_mean(samples, "image"), folder / "samples.png"),
        "curves": plots.plot_curves(run.read_metrics(), folder / "curves.png"),
    }
    if all(pair.model.memory_shape):
        sheet = memory_sheet(pair, traced.value("memory")[0, 0], traced.value("key")[0])
        figures["memory"] = plots.plot_memory(*sheet, folder / "memory.png")
    return figures


def memory_sheet(pair: Pair, memory: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None]:
    """A memory as channels (C, H, W), and the boxes (T, R, 4) that keys (T, *key_shape) read, if it has blocks."""
    addressing = pair.model.addressing
    return (memory.unsqueeze(0), None) if addressing is None else (memory, addressing.boxes(keys))
