"""Plot the cost of an image in colour against the bits of its memory: a model, principal components, and files.

python experiments/evaluate.py RUN --particles 100 --content-bits 8 && cp RUN/evaluation.json bits8.json   # and 6, 4
PYTHONPATH=. python docs/draw_memory_bits.py bits*.json --dataset cifar10 --data-dir DIR --out memory_bits.png

Prints a Markdown table. Principal components are those of the training images. The components of a test image are kept
as floats of 32 bits, or rounded to 2^b - 1 even levels between the extremes of each component. Every dimension is then
a discretized logistic with a scale of its own, fitted to training images. File sizes are those of strips of 500 images.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from experiments.shared.command_line import parse
from experiments.shared.script import run_script
from kpp_pyro.data import load_dataset
from kpp_pyro.likelihoods import bits_per_dim
from kpp_pyro.likelihoods.logistic_image import LogisticImage
from kpp_pyro.plots.figures import LINES, legend, logarithmic, save
from kpp_pyro.writes.quantization import Quantization

COMPONENTS = (100, 200, 400, 800, 1600)
BITS = (32, 8, 6, 4)
SHARES = torch.logspace(-0.7, 0.2, 8)  # of a residual's standard deviation, tried as the scale of its logistic
STRIP = 500  # images in a file
OPTIONS: dict[str, dict[str, Any]] = {
    "WebP": {"lossless": True, "quality": 100, "method": 4},
    "PNG": {"optimize": True},
}  # of Pillow, for lossless files
AT_ONCE = 1000


@dataclass(frozen=True)
class Arguments:
    """Plot bits per dimension, given the memory, against the bits of the memory per dimension."""

    reports: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """evaluation.json of runs, with memories of several sizes and --content-bits 8, 6, 4 or none."""
    dataset: str = "cifar10"
    """Data set of the principal components."""
    data_dir: Path = Path("data")
    """Folder of the data sets."""
    limit: int = 10_000
    """Test images."""
    out: Path = Path("memory_bits.png")
    """Figure to write."""


@dataclass(frozen=True)
class Point:
    """A cost per dimension, given a memory of some bits per dimension."""

    memory: float
    cost: float


def main() -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, None)
    splits = load_dataset(arguments.dataset, arguments.data_dir)
    test = splits.test.images[: arguments.limit]
    curves = {**dict(of_components(splits.train.images, test)), **of_model(arguments.reports)}
    files = {name: of_files(test, name) for name in OPTIONS}
    for name, points in curves.items():
        print(f"| {name} | " + " | ".join(f"{point.cost:.2f} at {point.memory:.2f}" for point in points) + " |")
    print(", ".join(f"{name} {bits:.2f}" for name, bits in files.items()))
    draw(curves, files, arguments.out)
    return 0


def of_components(train: Tensor, test: Tensor) -> Iterator[tuple[str, list[Point]]]:
    """Costs of test images, uint8 (N, C, H, W), given their principal components; a curve for each number of bits."""
    mean, directions = principal_components(train)
    fitted = train[:AT_ONCE]  # images to which scales are fitted
    for bits in BITS:
        points = []
        for count in COMPONENTS:
            chosen = directions[:, :count]
            scales = best_scales(fitted, approximations(fitted, mean, chosen, bits))
            cost = mean_cost(test, approximations(test, mean, chosen, bits), scales)
            points.append(Point(bits * count / mean.numel(), cost))
        yield f"principal components, {bits} bits", points


def principal_components(train: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and orthonormal directions (D, D) of images, the largest variance first; D = C H W."""
    total, products = torch.zeros(()), torch.zeros(())
    for images in train.split(10 * AT_ONCE):
        pixels = images.flatten(1).double()
        total, products = total + pixels.sum(0), products + pixels.T @ pixels
    mean = total / len(train)
    _, directions = torch.linalg.eigh(products / len(train) - mean.outer(mean))
    return mean.float(), directions.flip(1).float()


def approximations(images: Tensor, mean: Tensor, directions: Tensor, bits: int) -> Tensor:
    """Images (N, D) in grey levels, from their components; these are rounded to `bits` bits, except for 32."""
    components = (images.flatten(1).float() - mean) @ directions
    if bits < 32:
        components = Quantization(bits)(components.T, images).T  # each between its own extremes
    return mean + components @ directions.T


def best_scales(images: Tensor, locs: Tensor) -> Tensor:
    """The scale of each dimension, of `SHARES`, with the largest likelihood, (D,)."""
    deviations = (images.flatten(1) - locs).std(0)
    costs = torch.stack([costs_of(images, locs, share * deviations).mean(0) for share in SHARES])
    return SHARES[costs.argmin(0)] * deviations


def mean_cost(images: Tensor, locs: Tensor, scales: Tensor) -> float:
    """Bits per dimension of images."""
    nats = costs_of(images, locs, scales).sum(1).mean().item()
    return bits_per_dim(nats, (images.shape[1], images.shape[2], images.shape[3]))


def costs_of(images: Tensor, locs: Tensor, scales: Tensor) -> Tensor:
    """-ln P of every dimension (N, D), in nats; each dimension as an image of one pixel."""
    parts = []
    for levels, loc in zip(images.flatten(1).split(AT_ONCE), locs.split(AT_ONCE), strict=True):
        pixel = (loc - 127.5)[..., None, None, None, None]  # (N, D, K, C, H, W)
        none = torch.zeros_like(pixel[..., 0, :, :])
        logistic = LogisticImage(
            none, pixel, scales[:, None, None, None, None].expand_as(pixel), none[..., :0, :, :], 256
        )
        parts.append(-logistic.log_prob(levels[..., None, None, None] / 255))
    return torch.cat(parts)


def of_model(reports: tuple[Path, ...]) -> dict[str, list[Point]]:
    """The curves of a model, from its reports; a curve for each number of bits."""
    curves: dict[str, list[Point]] = {}
    for path in reports:
        content = json.loads(path.read_text())
        settings, bits = content["settings"], content["settings"]["content_bits"]
        ranges = 0 if bits is None else 32  # bits of an image's largest scalar, between whose signs it is rounded
        shape, scalars = settings["image_shape"], settings["memory_scalars"] / settings["episode_length"]
        memory = ((bits or 32) * scalars + ranges) / (shape[0] * shape[1] * shape[2])
        curve = curves.setdefault(f"Kanerva++, {bits or 32} bits", [])
        curve.append(Point(memory, -content["log_likelihood_bits_per_dim"]))
    return {name: sorted(points, key=lambda point: point.memory) for name, points in curves.items()}


def of_files(images: Tensor, name: str) -> float:
    """Bits per dimension of lossless files."""
    size = 0
    for strip in images.split(STRIP):
        file = io.BytesIO()
        picture = Image.fromarray(strip.permute(0, 2, 3, 1).flatten(0, 1).numpy())
        picture.save(file, name, **OPTIONS[name])
        size += 8 * len(file.getvalue())
    return size / images.numel()


def draw(curves: dict[str, list[Point]], files: dict[str, float], path: Path) -> None:
    """Plot the curves, and the sizes of files as points whose memory is the whole image."""
    figure = Figure((7.2, 5.4), layout="constrained")
    axis = figure.subplots()
    bits_of = {name: name.split(", ")[1] for name in curves}
    colours = {bits: style["color"] for bits, style in zip(dict.fromkeys(bits_of.values()), LINES, strict=False)}
    for name, points in curves.items():
        memory, cost = [point.memory for point in points], [point.cost for point in points]
        style = "-" if name.startswith("Kanerva++") else ":"
        axis.plot(memory, cost, style, color=colours[bits_of[name]], marker=".", label=name)
    for name, bits in files.items():
        axis.plot([bits], [0], "x", color="black", clip_on=False)
        axis.annotate(name, (bits, 0), textcoords="offset points", xytext=(0, 6), rotation=90, ha="center", fontsize=8)
    axis.set(
        xlabel="memory, bits per dimension",
        ylabel="-log2 p(x | M), bits per dimension",
        ylim=(0, None),
    )
    sizes = [point.memory for points in curves.values() for point in points]
    logarithmic(axis, "x", sizes)
    axis.grid(alpha=0.3)
    legend(axis, columns=2)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(run_script(main))
