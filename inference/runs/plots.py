"""The figures of a run, drawn from its programs, its episodes, its metrics and its scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from inference.importance.scoring import OWN
from inference.runs.load import Run
from inference.tracing import own_randomness, site_mean, trace_pair
from inference.trained_memory import Memory, TrainedMemory
from kpp_pyro import plots
from kpp_pyro.corruptions import Corrupted, corrupt
from kpp_pyro.data import EpisodeSet
from kpp_pyro.files.run_folder import RunFolder
from models.pair import Pair

_MEMORIES, _SAMPLES = 4, 16
_SHOWN_READS, _DENOISED = (1, 2, 5, 10), 2  # columns, and images of each strength
_GENERATED, _WALK_IMAGES, _WALK_MOST, _PAIRS = 3, 14, 8, 3
_WORK_NOISE, _WORK_CUES, _WORK_READS = ("salt_and_pepper", 0.3), 10, 5
_SEED = 0  # of the noise in the figures, so that they can be drawn again


def plot_score_figures(run: RunFolder) -> dict[str, Figure]:
    """Draw the figures of a run's evaluation into its folder; returns them by name."""
    content, folder = run.read_evaluation(), run.figures
    own, limit = content["scores"][OWN], content["limit_nats_per_image"]
    return {
        "pareto_k": plots.plot_pareto_k(content["per_image"]["pareto_k"], folder / "pareto_k.png"),
        "bounds": plots.plot_bounds(own["bounds"], own["elbo_nats_per_image"], folder / "bounds.png"),
        "controls": plots.plot_controls(content["scores"], limit, folder / "controls.png"),
    }


def plot_memory_at_work(run: Run) -> dict[str, Figure]:
    """Draw a run's memory at work into its folder: an episode, its memory, cues and their recall, samples.

    Nothing is drawn of a model that has none.
    """
    if not all(run.pair.model.memory_shape):
        return {}
    memories, path = run.memory, run.folder.figures / "memory_at_work.png"
    images = next(run.episodes.test.batches(1))[0][0]
    memory = memories.write(images)
    cues = corrupt(images, *_WORK_NOISE, torch.Generator().manual_seed(_SEED)).images
    recalled = memories.recall(memory, cues, _WORK_READS)[-1].images[:_WORK_CUES]
    with own_randomness(_SEED, run.pair.device):
        samples = memories.generate(memory, 2 * _WORK_CUES).images
    sheet, boxes = memory_sheet(run.pair, memory.value, memories.locate(memory, images))
    cues = cues[:_WORK_CUES]
    return {"memory_at_work": plots.plot_memory_at_work(images, sheet, boxes, cues, recalled, samples, path)}


def plot_denoising_figures(run: Run) -> dict[str, Figure]:
    """Draw the figures of a run's denoising into its folder, with a few of the images; returns them by name.

    Those of other noises, which an earlier denoising left, are removed.
    """
    content, folder = run.folder.read_denoising(), run.folder.figures
    results, settings = content["results"], content["settings"]
    for old in folder.glob("denoise_*.png"):
        old.unlink()
    drawn = {"denoise_curves": plots.plot_denoising_curves(results, folder / "denoise_curves.png")}
    images = next(run.episodes.of(settings["split"]).batches(1))[0][0]
    shown = [step for step in _SHOWN_READS if step <= settings["steps"]]
    titles = ["clean", "cue", *(f"{step} read{'s' * (step > 1)}" for step in shown)]
    for noise in dict.fromkeys(result["noise"] for result in results):
        strengths = [result["strength"] for result in results if result["noise"] == noise]
        cases = {}
        for turn, strength in enumerate(strengths):  # other images each turn
            damaged = corrupt(images, noise, strength, torch.Generator().manual_seed(settings["seed"]))
            rows = _denoised(run.memory, images, damaged, shown)
            cases[strength] = rows.roll(-turn * _DENOISED, 0)[:_DENOISED]
        known = ["hole known"] if noise == "mask" else []
        name = f"denoise_{noise}"
        drawn[name] = plots.plot_denoising(noise, cases, titles + known, folder / f"{name}.png")
    return drawn


def _denoised(memories: TrainedMemory, images: Tensor, damaged: Corrupted, reads: Sequence[int]) -> Tensor:
    """Images (T, C, H, W) clean, damaged, after some reads, and, if pixels are hidden, completed: (T, n, C, H, W)."""
    memory = memories.write(images)
    found = memories.recall(memory, damaged.images, max(reads))
    columns = [images, damaged.images, *(found[step - 1].images for step in reads)]
    if damaged.hidden.any():
        columns.append(memories.complete(memory, damaged.images, damaged.hidden, max(reads))[-1].images)
    return torch.stack(columns, 1)


@torch.no_grad()
def plot_generation_figures(run: Run) -> dict[str, Figure]:
    """Draw the figures of a run's generation into its folder, with a few of its memories; returns them by name."""
    content, folder, memories = run.folder.read_generation(), run.folder.figures, run.memory
    settings = content["settings"]
    images = next(run.episodes.of(settings["split"]).batches(_GENERATED))[0]
    memory = memories.write(images)
    with own_randomness(settings["seed"], run.pair.device):
        drawn = memories.generate(memory, _SAMPLES).images
    cleaned = memories.recall(memory, drawn, settings["clean_up"])[-1].images
    found = {
        "coverage": plots.plot_coverage(content, folder / "coverage.png"),
        "generation": plots.plot_generation(images[:, :_SAMPLES], drawn, cleaned, folder / "generation.png"),
    }
    if run.pair.model.addressing is not None:
        walk = _key_walk(memories, memory[0], images[0, 0])
        found["key_walk"] = plots.plot_key_walk(walk, folder / "key_walk.png", run.config.memory.reads)
    if images.shape[1] > 1:
        pairs = _interpolations(memories, memory[0], images[0])
        found["interpolation"] = plots.plot_interpolation(pairs, folder / "interpolation.png")
    return found


def _key_walk(memories: TrainedMemory, memory: Memory, image: Tensor) -> dict[str, Tensor]:
    """What a key on a grid reads, (rows, columns, C, H, W), from the smallest scale to the largest.

    Of R reads the first walks, and the others stay where a written image (C, H, W) has them.
    """
    addressing = memories.addressing
    layout, walks = addressing.layout, {}
    rows, columns = min(layout.rows, _WALK_MOST), min(layout.columns, _WALK_MOST)
    stay = memories.locate(memory, image.unsqueeze(0)).expand(rows * columns, -1, -1)
    for share in (0.0, 0.5, 1.0):
        walk = addressing.key_grid(rows, columns, addressing.scale_at(share))[:, :1].to(stay)
        zoom = 1 + share * (layout.largest_zoom - 1)
        name = f"scale: {zoom * layout.block_height:g}x{zoom * layout.block_width:g} of {layout.height}x{layout.width}"
        keys = torch.cat([walk, stay[:, 1:]], 1)
        walks[name] = memories.read(memory, keys).images.unflatten(0, (rows, columns))
    return walks


def _interpolations(memories: TrainedMemory, memory: Memory, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Walks between the first pairs of written images (T, C, H, W), through keys and through latents."""
    ends = images[: 2 * (min(2 * _PAIRS, len(images)) // 2)].unflatten(0, (-1, 2))
    return [
        (
            memories.interpolate(memory, first, last, _WALK_IMAGES, "keys").images,
            memories.interpolate(memory, first, last, _WALK_IMAGES, "latents").images,
        )
        for first, last in ends
    ]


@torch.no_grad()
def plot_figures(run: RunFolder, pair: Pair, episodes: EpisodeSet) -> dict[str, Figure]:
    """Draw every figure of a run into its folder, from the first held-out episodes; returns them by name."""
    with own_randomness(_SEED, pair.device):
        episode, _ = next(episodes.batches(_MEMORIES))
        traced = trace_pair(pair.model, pair.guide, episode)
        samples = pair.model.generate(traced.value("memory"), _SAMPLES)
    folder = run.figures
    drawn = {
        "reconstructions": plots.plot_reconstructions(
            episode[0], traced.mean("image")[0], folder / "reconstructions.png"
        ),
        "samples": plots.plot_samples(site_mean(samples, "image"), folder / "samples.png"),
        "curves": plots.plot_curves(run.read_metrics(), folder / "curves.png"),
    }
    if all(pair.model.memory_shape):
        sheet = memory_sheet(pair, traced.value("memory")[0, 0], traced.value("key")[0])
        drawn["memory"] = plots.plot_memory(*sheet, folder / "memory.png")
    return drawn


def memory_sheet(pair: Pair, memory: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None]:
    """A memory as channels (C, H, W), and the boxes (T, R, 4) that keys (T, *key_shape) read, if they are places."""
    addressing = pair.model.addressing
    return (memory.unsqueeze(0), None) if addressing is None else (memory, addressing.boxes(keys))
