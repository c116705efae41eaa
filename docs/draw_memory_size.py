"""Plot the cost of an image, -ln p(x | M), against the scalars of a memory, for all memories.

python experiments/ablate.py experiments/configs/memory_size.yaml --seeds 1 --data-dir DIR --out runs/blocks
python experiments/ablate.py experiments/configs/memory_size_rivals.yaml --seeds 1 --data-dir DIR --out runs/rivals
PYTHONPATH=. python docs/draw_memory_size.py runs/blocks runs/rivals --out docs/figures/memory_size.png
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from matplotlib.figure import Figure

from experiments.shared.ablation.results import COST, NEGATIVE_ELBO
from experiments.shared.command_line import parse
from experiments.shared.script import run_script
from kpp_pyro.errors import InputError
from kpp_pyro.plots.figures import LINES, legend, logarithmic, save

PUBLISHED = {
    "Kanerva++, published": 41.58,
    "Pseudo-Inverse Memory, published": 31.48,
}  # nats per image; the papers do not state the memory's size


@dataclass(frozen=True)
class Arguments:
    """Plot the cost of an image against the scalars of a memory, and print a Markdown table."""

    ablations: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of ablations with an axis "memory scalars"."""
    out: Path = Path("memory_size.png")
    """Figure to write."""


@dataclass(frozen=True)
class Point:
    """Results for one memory size, in nats per image.

    Attributes:
        cost: -ln p(x | M), or an upper bound of it.
        negative_elbo: -ELBO given the memory.
        is_exact: whether k-hat is low enough for the cost to be more than a bound.
    """

    cost: float
    negative_elbo: float
    is_exact: bool


Costs = Mapping[str, Mapping[int, Point]]  # by the name of the memory and its scalars


def main() -> int:
    """Run the script."""
    arguments = parse(Arguments)
    costs = read_costs(arguments.ablations)
    print(table(costs))
    plot(costs, arguments.out)
    print(arguments.out)
    return 0


def read_costs(folders: Sequence[Path]) -> Costs:
    """Read the finished rows of ablations.

    Raises:
        InputError: no folder, or one without a valid ablation.json.
    """
    if not folders:
        raise InputError("ABLATIONS: expected folders of ablations, found none")
    costs: dict[str, dict[int, Point]] = defaultdict(dict)
    for path in (folder / "ablation.json" for folder in folders):
        try:
            for row in json.loads(path.read_text())["rows"]:
                labels, found = dict(row["labels"]), row["mean"]
                del labels["memory scalars"]
                (name,) = labels.values()
                if COST in found:
                    point = Point(found[COST], found[NEGATIVE_ELBO], row["trustworthy"])
                    costs[name][int(found["memory_scalars"])] = point
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: expected the memory sizes of an ablation, found {error!r}") from error
    return costs


def plot(costs: Costs, path: Path) -> None:
    """Plot one line per memory; hollow points are upper bounds."""
    figure = Figure(figsize=(7, 5.2), layout="constrained")
    axis: Any = figure.subplots()
    axis.set_prop_cycle(LINES)
    for name, found in costs.items():
        line = sorted(found.items())
        (curve,) = axis.plot([scalars for scalars, _ in line], [point.cost for _, point in line], ms=0, label=name)
        for scalars, point in line:
            axis.plot(scalars, point.cost, "o", color=curve.get_color(), fillstyle="full" if point.is_exact else "none")
    for (name, cost), style in zip(PUBLISHED.items(), ("--", ":"), strict=True):
        axis.axhline(cost, color="grey", linestyle=style, label=name)
    axis.set(xlabel="scalars of memory, T = 32", ylabel="-ln p(x | M), nats per image", ylim=(0, None))
    scalars = [number for found in costs.values() for number in found]
    logarithmic(axis, "x", scalars)
    legend(axis, columns=2)
    save(figure, path)


def table(costs: Costs) -> str:
    """A Markdown table with one row per memory and size."""
    lines = ["| memory | scalars | −ln p̂ | −ELBO |", "|---|---:|---:|---:|"]
    for name, found in costs.items():
        for scalars, point in sorted(found.items()):
            cost = f"{'' if point.is_exact else '≤ '}{point.cost:.1f}"
            lines.append(f"| {name} | {scalars:,} | {cost} | {point.negative_elbo:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
