"""Plot the cost of an image against the bits of its memory: models, principal components, a product quantizer, files.

python experiments/evaluate.py RUN --content-bits 8 && cp RUN/evaluation.json bits8.json    # and 6, 4; and other runs
PYTHONPATH=. python docs/draw_memory_bits.py bits*.json --dataset mnist --data-dir DIR --out docs/figures/bits.png
PYTHONPATH=. python docs/draw_memory_bits.py more.json --curves docs/figures/bits.json --out docs/figures/bits.png

Prints a Markdown table. Beside the figure it writes the curves as JSON; the last command adds a report to them. Costs
are nats of binary images, and bits per dimension of 256 levels. A model pays for the key, which says where in the
memory the image is: about ln T nats. The decoded baselines of `memory_baselines.py` are told the code, and pay nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import memory_baselines
import tyro
from cycler import Cycler, cycler
from matplotlib.figure import Figure

from experiments.shared.arguments import describe_likelihood, describe_memory
from experiments.shared.command_line import parse
from experiments.shared.script import run_script
from inference.importance.estimator import standard_error
from inference.ranges import Limit
from kpp_pyro.errors import InputError
from kpp_pyro.files.reading import reading
from kpp_pyro.files.run_folder import environment, write_json
from kpp_pyro.files.run_schemas import Evaluation
from kpp_pyro.likelihoods import bits_per_dim
from kpp_pyro.plots.figures import LINES, legend, logarithmic, save, set_scale
from kpp_pyro.schema import Count, FileContent, NotNegative, Schema, Side, parse_json

FLOAT_BITS = 32


@dataclass(frozen=True)
class Arguments:
    """Plot the cost of an image, given its memory, against the bits of the memory."""

    reports: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """evaluation.json of runs."""
    dataset: str | None = None
    """Data set of the baselines."""
    data_dir: Path = Path("data")
    """Folder of the data sets."""
    limit: Limit = 2048
    """Test images of the baselines: those of evaluate.py --limit."""
    curves: Path | None = None
    """In place of --dataset: the curves of an earlier figure, to which the reports are added."""
    out: Path = Path("memory_bits.png")
    """Figure to write."""


class Point(FileContent):
    """The cost of images given a memory.

    Attributes:
        memory_bits: bits of memory per image.
        cost: -ln p(x | M) in nats per image, or -log2 p(x | M) in bits per dimension.
        standard_error: of the cost, over images; None of a single one.
        images: how many.
        is_bound: whether k-hat is above its limit for too many images, so that the cost is an upper bound.
    """

    memory_bits: NotNegative
    cost: float
    standard_error: NotNegative | None
    images: Count
    is_bound: bool = False


Points = dict[str, list[Point]]  # by the kind of memory


class Curves(FileContent):
    """What the figure shows.

    Attributes:
        dataset: name of the data set.
        image_shape: (C, H, W).
        binary: whether images are binary, and costs in nats; otherwise they have 256 levels.
        baselines: points of decoded baselines.
        models: points of models.
        files: bits of lossless files, per image.
        environment: the machine and the libraries of the baselines.
    """

    dataset: str
    image_shape: tuple[Side, Side, Side]
    binary: bool
    baselines: Points
    models: Points
    files: dict[str, NotNegative]
    environment: dict[str, Any]

    @property
    def unit(self) -> str:
        """Of the costs."""
        return "nats per image" if self.binary else "bits per dimension"

    def converted(self, nats: float) -> float:
        """Nats per image in the unit of the costs."""
        return nats if self.binary else bits_per_dim(nats, self.image_shape)

    def point(self, memory_bits: float, nats: float, error: float | None, images: int, is_bound: bool = False) -> Point:
        """A point, from the cost and its standard error in nats per image."""
        cost, error = self.converted(nats), None if error is None else self.converted(error)
        return Point(memory_bits=memory_bits, cost=cost, standard_error=error, images=images, is_bound=is_bound)


def main() -> int:
    """Run the script; returns its exit status."""
    arguments = parse(Arguments, None)
    curves = first_curves(arguments)
    for path in arguments.reports:
        add_report(curves, path)
    print(table(curves))
    write_json(arguments.out.with_suffix(".json"), curves.model_dump())
    draw(curves, arguments.out)
    return 0


def first_curves(arguments: Arguments) -> Curves:
    """Those of an earlier figure, or of the baselines.

    Raises:
        InputError: a file or a data set that cannot be read, or both of them, or neither.
    """
    if arguments.dataset and not arguments.curves:
        return baselines(arguments.dataset, arguments.data_dir, arguments.limit)
    if arguments.curves and not arguments.dataset:
        return read(arguments.curves, Curves, "the curves of draw_memory_bits.py")
    raise InputError(f"--dataset: expected it or --curves, found {'both' if arguments.curves else 'neither'}")


def read(path: Path, schema: type[Schema], what: str) -> Schema:
    """Read a JSON file; `what` is the file in words.

    Raises:
        InputError: no such file, or another content.
    """
    with reading(path, what) as file:
        return parse_json(file.read(), schema, f"{path}: expected {what}")


def baselines(dataset: str, data_dir: Path, limit: int) -> Curves:
    """The curves of the baselines.

    Raises:
        InputError: a data set that cannot be loaded.
    """
    images = memory_baselines.Images.load(dataset, data_dir, limit)
    files = {name: memory_baselines.of_files(images, name) for name in memory_baselines.OPTIONS}
    _, channels, height, width = images.test.shape
    curves = Curves(
        dataset=dataset,
        image_shape=(channels, height, width),
        binary=images.levels == 2,
        baselines={},
        models={},
        files=files,
        environment=environment(),
    )
    for name, coded in memory_baselines.curves(images):
        points = curves.baselines.setdefault(name, [])
        for bits, costs in coded:
            error = standard_error(costs) if len(costs) > 1 else None
            points.append(curves.point(bits, costs.mean().item(), error, len(costs)))
    return curves


def add_report(curves: Curves, path: Path) -> None:
    """Add the point of a report to the curve of its kind of memory, by growing bits.

    Raises:
        InputError: no report, or one of other images.
    """
    content = read(path, Evaluation, "a report of evaluate.py").model_dump()
    settings, own = content["settings"], content["scores"]["own"]
    images = (settings["dataset"], settings["split"], settings["image_shape"], settings["binarization"] != "none")
    if images != (curves.dataset, "test", curves.image_shape, curves.binary):
        levels = "binary" if curves.binary else "256 levels"
        raise InputError(f"{path}: expected test images of {curves.dataset}, {levels}, found {images}")
    cost, error = -own["log_likelihood_nats_per_image"], own["log_likelihood_standard_error"]
    point = curves.point(memory_bits(settings), cost, error, settings["images"], is_bound=not own["trustworthy"])
    parts = describe_memory(settings), f"T = {settings['episode_length']}", describe_likelihood(settings)
    name = ", ".join(filter(None, parts))
    found = {*curves.models.get(name, []), point}
    curves.models[name] = sorted(found, key=lambda point: point.memory_bits)


def memory_bits(settings: Mapping[str, Any]) -> float:
    """Bits of memory per image: 32 a scalar, if it is not rounded and does not consist of signs.

    Rounded scalars need 32 bits more, for their range in the image.
    """
    rounded, signs = settings["content_bits"], settings.get("signs_per_scalar")
    bits = settings["memory_scalars"] * (rounded or signs or FLOAT_BITS) / settings["episode_length"]
    return bits + (FLOAT_BITS if rounded else 0)


def table(curves: Curves) -> str:
    """A Markdown table with a row for each point."""
    lines = [f"| memory | bits an image | cost, {curves.unit} | images |", "|---|---:|---:|---:|"]
    for name, points in (curves.baselines | curves.models).items():
        for point in points:
            error = "" if point.standard_error is None else f" ± {point.standard_error:.2f}"
            cost = f"{'≤ ' if point.is_bound else ''}{point.cost:.2f}{error}"
            lines.append(f"| {name} | {point.memory_bits:,.0f} | {cost} | {point.images:,} |")
    return "\n".join([*lines, *(f"| {name}, lossless | {bits:,.0f} | 0 | |" for name, bits in curves.files.items())])


def draw(curves: Curves, path: Path) -> None:
    """Plot the curves, and the sizes of lossless files as vertical lines."""
    figure = Figure((10, 6.8), layout="constrained")
    axis = figure.subplots()
    dotted = cycler(color=["0.5"], linestyle=[":"]) * cycler(marker=LINES.by_key()["marker"])
    plot_points(axis, curves.baselines, dotted)
    more = cycler(color=LINES.by_key()["color"], marker=("<", ">", "p", "*", "h", "d", "8"))
    plot_points(axis, curves.models, LINES.concat(more))
    shown = [point for points in (curves.baselines | curves.models).values() for point in points]
    logarithmic(axis, "x", [point.memory_bits for point in shown])
    set_scale(axis, "y", [point.cost for point in shown])
    for name, bits in curves.files.items():
        axis.axvline(bits, color="0.8", zorder=0)
        place: dict[str, Any] = {"transform": axis.get_xaxis_transform(), "rotation": 90, "ha": "right", "va": "top"}
        axis.text(bits, 0.98, f"{name}, lossless", **place, fontsize=8, color="0.5")
    axis.set_title(
        f"{curves.dataset}; hollow: upper bounds; the cost of a model includes the KL of the key, about ln T nats",
        fontsize=9,
    )
    axis.set(xlabel="bits of memory per image", ylabel=f"cost given the memory, {curves.unit}")
    axis.grid(alpha=0.3)
    legend(axis, columns=2)
    save(figure, path)


def plot_points(axis: Any, curves: Points, styles: Cycler) -> None:
    """Plot curves, each in a style of its own; points that are bounds are hollow, and those of no memory are lines."""
    for (name, points), style in zip(curves.items(), styles(), strict=False):
        axis.plot([], [], **style, label=name)
        if not points[0].memory_bits:
            axis.axhline(points[0].cost, color=style["color"], linestyle="--")
            continue
        line = {**style, "markersize": 0}
        axis.plot([point.memory_bits for point in points], [point.cost for point in points], **line)
        for point in points:
            fill = "none" if point.is_bound else "full"
            axis.plot(point.memory_bits, point.cost, color=style["color"], marker=style["marker"], fillstyle=fill)


if __name__ == "__main__":
    sys.exit(run_script(main))
