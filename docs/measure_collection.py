"""Measurements of `collections.md`: up to 100,000 MNIST digits in one collection, and searches with as many bytes.

export PYTHONPATH=.
python docs/measure_collection.py --data-dir DIR --out docs/figures/collection.json      # six minutes
python docs/measure_collection.py --draw docs/figures/collection.json                    # docs/figures/collection.png
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from experiments.shared.command_line import parse
from inference import Collection, corrupt, load_pretrained
from inference.collection.records import Recalled
from inference.trained_memory import TrainedMemory
from kpp_pyro.data import augment, load_dataset
from kpp_pyro.files.run_folder import environment
from kpp_pyro.plots.figures import LINES, legend, save
from kpp_pyro.progress import show_progress

CORRUPTIONS = {
    "clean": None,
    "salt and pepper, 20 %": ("salt_and_pepper", 0.2),
    "salt and pepper, 40 %": ("salt_and_pepper", 0.4),
    "gaussian, 0.4": ("gaussian", 0.4),
    "mask, 25 %": ("mask", 0.25),
}
FIGURE = Path(__file__).parent / "figures" / "collection.png"
QUERIES, TIMED = 512, 30
SIZES = (32, 1_000, 10_000, 30_000, 100_000)


@dataclass(frozen=True)
class Arguments:
    """Write many digits to a collection, recall noisy copies, and compare with nearest neighbours of as many bytes."""

    data_dir: Path = Path("data")
    """Folder with MNIST."""
    out: Path = Path("measured.json")
    """File of the measurements."""
    draw: Path | None = None
    """Draw the figure of such a file, and measure nothing."""


def main() -> None:
    """Measure, or draw."""
    arguments = parse(Arguments)
    if arguments.draw:
        draw(json.loads(arguments.draw.read_text()))
        return
    trained = load_pretrained("mnist", data_dir=arguments.data_dir).memory
    images, others = digits(arguments.data_dir)
    collection, points = Collection(trained), []
    for size in SIZES:
        began = time.perf_counter()
        for part in show_progress(images[len(collection) : size].split(1024), f"writing to {size}", leave=False):
            collection.write(part)
        seconds = time.perf_counter() - began
        points.append({"images": size, "write_seconds": seconds, **measure(collection, images[:size], others)})
        print(json.dumps(points[-1]))
        content = {"points": points, "single_memory": single_memories(trained, images), "environment": environment()}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")
    measure_faiss(collection, images, content)
    arguments.out.write_text(json.dumps(content, indent=2) + "\n")


def digits(data_dir: Path) -> tuple[Tensor, Tensor]:
    """100,000 binary digits to write, the last 40,000 of them moved copies of others, and 10,000 others."""
    mnist, generator = load_dataset("mnist", data_dir), torch.Generator().manual_seed(0)
    grey = torch.cat([mnist.train.images, mnist.validation.images]) / 255
    grey = torch.cat([grey, augment(grey[: SIZES[-1] - len(grey)], generator)]).clamp(0, 1)
    return torch.bernoulli(grey, generator=generator), torch.bernoulli(mnist.test.images / 255, generator=generator)


def measure(collection: Collection, images: Tensor, others: Tensor) -> dict[str, Any]:
    """Everything about one size."""
    began = time.perf_counter()
    collection.calibrate()
    calibrating = time.perf_counter() - began
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[:QUERIES]
    result: dict[str, Any] = {
        "calibrate_seconds": calibrating,
        "block_bytes": len(collection) * 4 * 100,
        "one_cue_ms": milliseconds(collection, images),
        "recall": {},
    }
    for name, kind in CORRUPTIONS.items():
        cues, hidden = corrupted(images[chosen], kind)
        recalled = collection.recall(cues, hidden)
        new_cues, new_hidden = corrupted(others[:QUERIES], kind)
        result["recall"][name] = {
            "found_share": share(
                found == str(slot) for found, slot in zip(first(recalled), chosen.tolist(), strict=True)
            ),
            **probabilities(recalled, chosen, collection.recall(new_cues, new_hidden)),
            "nearest_neighbour_found_share": neighbours(collection.trained, images, cues, hidden, chosen),
        }
    return result


def corrupted(images: Tensor, kind: tuple[str, float] | None) -> tuple[Tensor, Tensor]:
    """Cues, and what they lack."""
    if kind is None:
        return images, torch.zeros_like(images, dtype=torch.bool)
    made = corrupt(images, *kind, torch.Generator().manual_seed(2))
    return made.images, made.hidden


def first(recalled: Sequence[Recalled]) -> list[str]:
    """Names of the best matches."""
    return [found.matches[0].name for found in recalled]


def share(hits: Any) -> float:
    """Share of what is true."""
    return statistics.mean(map(float, hits))


def probabilities(recalled: Sequence[Recalled], chosen: Tensor, new: Sequence[Recalled]) -> dict[str, float]:
    """How well the probabilities say what was written, and which image it is."""
    written = torch.tensor([1 - found.never_written for found in [*recalled, *new]])
    truth = torch.arange(len(written)) < len(recalled)
    best = torch.tensor([found.matches[0].probability for found in [*recalled, *new]])
    own = [name == str(slot) for name, slot in zip(first(recalled), chosen.tolist(), strict=True)]
    right = torch.tensor(own + [False] * len(new))
    return {
        "written_probability_of_written": written[truth].mean().item(),
        "written_probability_of_others": written[~truth].mean().item(),
        "wrong_of_found_or_not_share": ((written > 0.5) != truth).float().mean().item(),
        "written_calibration_error": calibration_error(written, truth),
        "best_match_calibration_error": calibration_error(best, right),
    }


def calibration_error(probability: Tensor, truth: Tensor, bins: int = 10) -> float:
    """Expected calibration error: |mean probability - share of what is true| in each tenth, weighted by its cues."""
    number = (probability * bins).long().clamp(max=bins - 1)
    gaps = [
        (number == n).float().mean() * (probability[number == n].mean() - truth[number == n].float().mean()).abs()
        for n in number.unique()
    ]
    return float(sum(gaps))


def milliseconds(collection: Collection, images: Tensor) -> dict[str, float]:
    """Time of one cue, with 20 % salt and pepper."""
    cues = corrupted(images[:TIMED], CORRUPTIONS["salt and pepper, 20 %"])[0]
    collection.recall(cues[:1])
    times = []
    for cue in cues:
        began = time.perf_counter()
        collection.recall(cue)
        times.append(1000 * (time.perf_counter() - began))
    return {"median": statistics.median(times), "fastest": min(times)}


def neighbours(
    trained: TrainedMemory, images: Tensor, cues: Tensor, hidden: Tensor, chosen: Tensor
) -> dict[str, float]:
    """Share of cues whose nearest neighbour is their own image, for vectors of at most 400 bytes an image."""
    found = {}
    for name, vectors in searches(trained, images).items():
        stored, sought = vectors(images), vectors(cues.masked_fill(hidden, 0.0))
        nearest = torch.cat([torch.cdist(part, stored).argmin(1) for part in sought.split(64)])
        found[name] = (nearest == chosen).float().mean().item()
    known, bits = (~hidden).float().flatten(1), images.flatten(1)  # |k (q - x)|^2 for bits x, up to |k q|^2
    nearest = [(-2 * (k * q) @ bits.mT + k @ bits.mT).argmin(1) for k, q in pairs(known, cues.flatten(1))]
    found["known pixels of 1 bit (98 bytes)"] = (torch.cat(nearest) == chosen).float().mean().item()
    return found


def pairs(known: Tensor, cues: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Some cues at a time, with what is known of them."""
    return zip(known.split(64), cues.split(64), strict=True)


def searches(trained: TrainedMemory, images: Tensor) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Vectors of images, by name and bytes an image."""
    mean, axes = principal_axes(images[:20_000].flatten(1))
    of_features = principal_axes(features(trained, images[:20_000]))
    return {
        "pixels of 1 bit (98 bytes)": lambda x: (x > 0.5).float().flatten(1),
        "20x20 pixels of 8 bits (400 bytes)": lambda x: interpolate(x, (20, 20), mode="area").flatten(1),
        "100 principal components of pixels (400 bytes)": lambda x: (x.flatten(1) - mean) @ axes,
        "100 principal components of the encoding (400 bytes)": lambda x: (
            (features(trained, x) - of_features[0]) @ of_features[1]
        ),
    }


def principal_axes(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and the first 100 principal axes."""
    mean = vectors.mean(0)
    return mean, torch.linalg.svd(vectors - mean, full_matrices=False)[2][:100].mT


@torch.no_grad()
def features(trained: TrainedMemory, images: Tensor) -> Tensor:
    """The encoder's features, (n, F)."""
    guide: Any = trained.guide
    return torch.cat([guide.encoder(part.unsqueeze(1)).squeeze(1).float() for part in images.split(2048)])


def single_memories(trained: TrainedMemory, images: Tensor) -> dict[str, float]:
    """Share of cues that find their own block in the one memory of 32 that their images are written to, by one read."""
    shares = {}
    for name in ("salt and pepper, 20 %", "salt and pepper, 40 %"):
        hits = []
        for part in images[:QUERIES].split(32):
            memory, cues = trained.write(part), corrupted(part, CORRUPTIONS[name])[0]
            keys, own = trained.locate(memory, cues), trained.locate(memory, part)
            hits += (keys - own).abs().flatten(1).amax(1).lt(1e-3).tolist()
        shares[name] = share(hits)
    return shares


def measure_faiss(collection: Collection, images: Tensor, content: dict[str, Any]) -> None:
    """The largest size again, searched by faiss."""
    path = Path("collection.measured")
    collection.save(path)
    began = time.perf_counter()
    loaded = Collection.load(path, collection.trained, index="faiss")
    loaded.recall(images[0])
    seconds = time.perf_counter() - began
    chosen = torch.arange(QUERIES)
    found = {}
    for name in ("clean", "salt and pepper, 20 %", "salt and pepper, 40 %"):
        names = first(loaded.recall(corrupted(images[chosen], CORRUPTIONS[name])[0]))
        found[name] = share(name == str(slot) for slot, name in enumerate(names))
    content["faiss"] = {
        "load_and_index_seconds": seconds,
        "one_cue_ms": milliseconds(loaded, images),
        "found_share": found,
    }


def draw(content: dict[str, Any]) -> None:
    """Draw time and memory, and what is found and known, against the number of images."""
    points = content["points"]
    costs = {
        "one cue, ms": [point["one_cue_ms"]["median"] for point in points],
        "blocks, MiB": [point["block_bytes"] / 2**20 for point in points],
        "writing the new ones, s": [point["write_seconds"] for point in points],
    }
    wrong = {name: [point["recall"][name]["wrong_of_found_or_not_share"] for point in points] for name in CORRUPTIONS}
    panels = {
        "time and memory": costs,
        "share found, salt and pepper 40 %": found_shares(points, "salt and pepper, 40 %"),
        "share found, a quarter masked": found_shares(points, "mask, 25 %"),
        'wrong about "was it written", share': wrong,
    }
    figure = Figure((15, 4.6), layout="constrained")
    for axis, (title, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for (name, values), style in zip(lines.items(), LINES, strict=False):
            axis.plot([point["images"] for point in points], values, label=name, **style)
        axis.set(xscale="log", xlabel="images in the collection")
        axis.set_title(title, fontsize=10)
        axis.set_yscale("log") if lines is costs else axis.set_ylim(0, None)
        axis.grid(alpha=0.3)
        legend(axis)
    save(figure, FIGURE)


def found_shares(points: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[float]]:
    """Shares that are found, by the collection and by nearest neighbours, for one corruption."""
    results = [point["recall"][name] for point in points]
    found = {"collection (400 bytes)": [result["found_share"] for result in results]}
    for vectors in results[0]["nearest_neighbour_found_share"]:
        found[vectors] = [result["nearest_neighbour_found_share"][vectors] for result in results]
    return found


if __name__ == "__main__":
    sys.exit(main())
