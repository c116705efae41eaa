"""Cost of an image against the scalars of a memory, of all memories in one figure.

python experiments/ablate.py experiments/configs/memory_size.yaml --data-dir DIR --jobs 2 --out runs/blocks
python experiments/ablate.py experiments/configs/memory_size_rivals.yaml --data-dir DIR --jobs 2 --out runs/rivals
PYTHONPATH=. python docs/draw_memory_size.py runs/blocks runs/rivals

Prints a Markdown table, and draws `docs/figures/memory_size.png`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.ablation.results import COST
from kpp_pyro.figures.drawing import save

FIGURE = Path(__file__).parent / "figures" / "memory_size.png"
PUBLISHED = {"Kanerva++, published": 41.58, "Pseudo-Inverse Memory, published": 31.48}  # both with 3,200 scalars or so


def read_costs(folders: list[str]) -> dict[str, dict[int, tuple[float, bool]]]:
    """By memory and its scalars, the cost of an image, and whether it is more than a bound."""
    costs: dict[str, dict[int, tuple[float, bool]]] = defaultdict(dict)
    for folder in folders:
        for row in json.loads((Path(folder) / "ablation.json").read_text())["rows"]:
            name = next(label for axis, label in row["labels"].items() if axis != "memory scalars")
            found = row["mean"]
            if COST in found:
                costs[name][int(found["memory_scalars"])] = found[COST], row["trustworthy"]
    return costs


def draw(costs: dict[str, dict[int, tuple[float, bool]]]) -> None:
    """One line for each memory; hollow where the true cost is lower."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis: Any = figure.subplots()
    for name, found in costs.items():
        line = sorted(found.items())
        (drawn,) = axis.plot([scalars for scalars, _ in line], [cost for _, (cost, _) in line], label=name)
        for scalars, (cost, sure) in line:
            axis.plot(scalars, cost, "o", color=drawn.get_color(), fillstyle="full" if sure else "none")
    for (name, cost), style in zip(PUBLISHED.items(), ("--", ":"), strict=True):
        axis.axhline(cost, color="grey", linestyle=style, label=name)
    axis.set(xscale="log", xlabel="scalars of memory, T = 32", ylabel="-ln p(x | M), nats per image", ylim=(0, None))
    axis.legend(fontsize="small")
    save(figure, FIGURE)


def table(costs: dict[str, dict[int, tuple[float, bool]]]) -> str:
    """Markdown, one row for each memory and size."""
    lines = ["| memory | scalars | −ln p̂ |", "|---|---:|---:|"]
    for name, found in costs.items():
        for scalars, (cost, sure) in sorted(found.items()):
            lines.append(f"| {name} | {scalars:,} | {'' if sure else '≤ '}{cost:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    measured = read_costs(sys.argv[1:])
    draw(measured)
    print(table(measured))
