"""Every figure can be read: no text covers another or leaves the figure, no legend covers data, no cost is negative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from kpp_pyro import plots
from kpp_pyro.plots.recall import plot_matches

IMAGES = torch.rand(32, 1, 16, 16)
STEPS = range(500, 14_000, 500)
METRICS = [
    {
        "step": step,
        "split": "validation",
        "training_seconds": 60.0 + step,
        "elbo_nats_per_image": -7.0 - 20_000 / step,
        "left_out_elbo_nats_per_image": -98.0,
        "reconstruction_nats_per_image": -5.0 - 19_000 / step,
        "kl_key_nats_per_image": 2.8,
        "kl_latent_nats_per_image": 700 / step,
        "memory_gain_nats_per_image": 3_000.0 + step,
    }
    for step in STEPS
]


def score(cost: float, trustworthy: bool = False) -> dict:
    return {
        "log_likelihood_nats_per_image": -cost,
        "log_likelihood_standard_error": 0.01 * cost,
        "trustworthy": trustworthy,
    }


def bounds(cost: float, most: int) -> list[dict]:
    particles = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000) if k <= most]
    names = ("log_likelihood_nats_per_image", "log_likelihood_standard_error")
    return [{"particles": k, **dict(zip(names, (-cost - 1 / k, 0.5), strict=True))} for k in particles]


def recall(corruption: str, strength: float, nats: float) -> dict:
    errors = {
        "wrong_pixels_per_image": [20.0 * strength] * 10,
        "wrong_pixels_per_image_standard_error": [1.0] * 10,
        "nats_per_image": [nats * strength] * 10,
        "nats_per_image_standard_error": [nats * strength / 3] * 10,
    }
    return {
        "corruption": corruption,
        "strength": strength,
        "cue_wrong_pixels_per_image": 90.0 * strength,
        **dict.fromkeys(("recall", "memoryless", "completion", "nearest_written"), errors),
    }


def positions(images):
    costs = [-100.0 + index / 7 for index in range(images)]
    named = {f"{name}_by_position_nats_per_image": costs for name in ("elbo", "log_likelihood")}
    of_class = [*costs[: images // 2], None, costs[-1]]
    classes = {f"{name}_by_images_of_class_before_nats_per_image": of_class for name in ("elbo", "log_likelihood")}
    return {"particles": 1_000, **named, **classes}


def coverage(samples: int) -> dict:
    counts = {f"samples_by_wrong_pixels_to_nearest_{of}": [900, 30, 0, 1] * 20 for of in ("written", "training")}
    curve = [index / samples for index in range(samples)]
    return {
        "near_wrong_pixels": 9.3,
        "results": {kind: {"coverage_by_samples": curve, **counts} for kind in ("prior", "cleaned_up")},
    }


def growth(axis: str, write: str, sizes: list[int], milliseconds: float) -> dict:
    points = [{"size": size, "milliseconds": milliseconds * size, "peak_mebibytes": 3.0 + size / 9} for size in sizes]
    return {"axis": axis, "write": write, "points": points, "milliseconds_power": 0.9, "peak_mebibytes_power": 0.9}


def costs_of(memory: str, milliseconds: float) -> dict:
    names = [f"{name}_milliseconds" for name in ("write", "read", "recall")]
    points = [{"size": 2**power, **dict.fromkeys(names, milliseconds * 2**power)} for power in range(3, 10)]
    return {"memory": memory, "points": points, **{f"{name}_power": -0.12 for name in names}}


def point(cost: float, kl: float | None = None, error: float | None = 1.0, **labels: str) -> dict:
    paid = cost if kl is None else cost + kl
    errors = {"standard_error": error, "standard_error_with_memory_kl": error}
    return {
        "labels": labels,
        "cost": cost,
        "cost_with_memory_kl": paid,
        **errors,
        "limit": 3.47,
        "trustworthy": kl is None,
    }


SIZES = {"T, images per episode": [2**power for power in range(3, 10)], "memory, scalars": [3_200, 51_200, 819_200]}
FIGURES: dict[str, Callable[[], Figure]] = {
    "ablation": lambda: plots.plot_ablation(
        [
            point(c, kl, T=str(t), write=w)
            for t in (8, 16, 64, 512)
            for w, c, kl in (("own", 4.0, None), ("map", 42.0, 150.0))
        ],
        "T",
        "Episode length",
    ),
    "ablation of costs near zero": lambda: plots.plot_ablation(
        [point(cost, None, 9.0, model=f"A memory {cost}") for cost in (3.0, 3.5, 5.0)], None, "Memories"
    ),
    "ablation in rows": lambda: plots.plot_ablation(
        [point(4.0, model="Kanerva++, allocate"), *(point(45.0, 300.0, model=f"Rival {n}") for n in range(5))],
        None,
        "Six memories",
    ),
    "bounds": lambda: plots.plot_bounds(bounds(14.0, 60), -14.5),
    "bounds near zero": lambda: plots.plot_bounds(bounds(0.1, 1_000), -0.3),
    "bounds of many particles": lambda: plots.plot_bounds(bounds(4_000.0, 10_000), -4_010.0),
    "comparison": lambda: plots.plot_comparison({"binary, 28 x 28 pixels": {f"run_{n}": METRICS for n in range(6)}}),
    "comparison of two kinds": lambda: plots.plot_comparison(
        {
            "mnist, T = 32\nbinary, 28 x 28 pixels": {"mnist": METRICS},
            "cifar10, T = 32\n256 levels, 32 x 32 pixels, 3 channels": {"cifar10": METRICS},
        }
    ),
    "completion": lambda: plots.plot_completion([(IMAGES[:k], IMAGES[k:16]) for k in (1, 2, 4, 8)]),
    "completion of the shortest episodes": lambda: plots.plot_completion([(IMAGES[:1], IMAGES[1:2])]),
    "controls": lambda: plots.plot_controls(
        {"own": score(80.1, True), "left_out": score(12_664.0), "other": score(17_041.0), "empty": score(9.5)}, -3.47
    ),
    "controls near the limit": lambda: plots.plot_controls({"own": score(1.5), "empty": score(3.2)}, -3.47),
    "positions": lambda: plots.plot_positions(positions(32)),
    "positions of two images": lambda: plots.plot_positions(positions(2)),
    "coverage": lambda: plots.plot_coverage(coverage(1_000)),
    "curves": lambda: plots.plot_curves(METRICS),
    "curves of a short run": lambda: plots.plot_curves(METRICS[:2]),
    "denoising": lambda: plots.plot_denoising(
        "mask",
        {0.25: torch.rand(2, 7, 1, 16, 16)},
        ["clean", "cue", "1 read", "2 reads", "5 reads", "100 reads", "hole known"],
    ),
    "denoising_curves": lambda: plots.plot_denoising_curves(
        [recall(name, s, 3_000.0) for name in ("mask", "salt_and_pepper") for s in (0.1, 0.2, 0.3, 0.4, 0.5)]
    ),
    "denoising_curves near zero": lambda: plots.plot_denoising_curves([recall("mask", s, 0.2) for s in (0.8, 0.9)]),
    "episodes_from_prior": lambda: plots.plot_episodes_from_prior(
        IMAGES[:16].expand(6, -1, -1, -1, -1), IMAGES[:16].expand(6, -1, -1, -1, -1)
    ),
    "generation": lambda: plots.plot_generation(IMAGES[None, :16], IMAGES[None, :16], IMAGES[None, :16]),
    "growth": lambda: plots.plot_growth(
        [growth(axis, write, sizes, 0.3) for axis, sizes in SIZES.items() for write in ("allocate", "feed_forward")]
    ),
    "image_table": lambda: plots.plot_image_table([("a row", IMAGES[:8])], "A title", columns=["a column"] * 8),
    "interpolation": lambda: plots.plot_interpolation([(IMAGES[:14], IMAGES[:14])]),
    "key_walk": lambda: plots.plot_key_walk(
        dict.fromkeys(["scale: 5x5 of 20x40", "scale: 20x20 of 20x40"], IMAGES.view(4, 8, 1, 16, 16))
    ),
    "matches": lambda: plot_matches(
        [("a_long_folder/of_pictures/cue.png", IMAGES[0], [("another/written/picture.png\n0.97", IMAGES[1])] * 3)] * 2
    ),
    "memory": lambda: plots.plot_memory(torch.randn(4, 20, 40)),
    "memory of a matrix": lambda: plots.plot_memory(torch.randn(1, 32, 100)),
    "memory_at_work": lambda: plots.plot_memory_at_work(
        IMAGES, torch.randn(4, 20, 40), None, IMAGES[:10], IMAGES[:10], IMAGES[:20]
    ),
    "memory_at_work of a long episode": lambda: plots.plot_memory_at_work(
        IMAGES.repeat(16, 1, 1, 1), torch.randn(1, 32, 100), None, IMAGES[:10], IMAGES[:10], IMAGES[:20]
    ),
    "memory_costs": lambda: plots.plot_memory_costs([costs_of(f"a_memory, number {n}", 0.01 + n) for n in range(6)]),
    "pareto_k": lambda: plots.plot_pareto_k([n / 40 for n in range(-40, 80)], 0.7),
    "pareto_k of few particles": lambda: plots.plot_pareto_k([None] * 10_000, None),
    "pareto_k of some images": lambda: plots.plot_pareto_k([0.1, 0.3, None] * 10_000, 0.7),
    "recall": lambda: plots.plot_recall(IMAGES, IMAGES, IMAGES),
    "reconstructions": lambda: plots.plot_reconstructions(IMAGES, IMAGES),
    "samples": lambda: plots.plot_samples(IMAGES[None, :16]),
}  # by the name of the function, and a remark


def test_every_figure_is_listed_here():
    assert {f"plot_{name.split(' ')[0]}" for name in FIGURES} >= set(plots.__all__)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_can_be_read(name):
    assert_readable(FIGURES[name]())


def assert_readable(figure: Figure) -> None:
    """No text covers another or leaves the figure, no legend covers a panel, no axis of costs shows negative ones."""
    FigureCanvasAgg(figure).draw()
    places = {text: box_of(text) for text in texts_of(figure)}
    for text, box in places.items():
        assert figure.bbox.padded(1).containsx(box.x0) and figure.bbox.padded(1).containsx(box.x1), f"{text} is cut"
        assert figure.bbox.padded(1).containsy(box.y0) and figure.bbox.padded(1).containsy(box.y1), f"{text} is cut"
    for first, second in combinations(places, 2):
        assert not places[first].overlaps(places[second]), f"{first} covers {second}"
    for panel in figure.axes:
        legend = panel.get_legend()
        if legend is not None:
            found = legend.get_window_extent().padded(-1)
            assert not any(found.overlaps(other.bbox) for other in figure.axes), "a legend covers a panel"
        for axis in (panel.xaxis, panel.yaxis):
            if "nats" in axis.get_label_text() and "minus" not in panel.get_title():
                assert min(axis.get_view_interval()) >= 0, f"{axis.get_label_text()}: negative"
            if axis.get_label_text() and not panel.images:
                assert len(list(tick_labels(panel, axis))) >= 2, f"{axis.get_label_text()}: no scale"


def box_of(text: Text) -> Bbox:
    """Where a text is, in pixels, without the room around its letters."""
    return text.get_window_extent().padded(-1)


def texts_of(figure: Figure) -> Iterator[Text]:
    """Every text that is shown."""
    ticks = set()
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            ticks |= {label for tick in (*axis.majorTicks, *axis.minorTicks) for label in (tick.label1, tick.label2)}
            yield from tick_labels(panel, axis)
    yield from (text for text in figure.findobj(Text) if text not in ticks and text.get_visible() and text.get_text())


def tick_labels(panel: Axes, axis) -> Iterator[Text]:
    """The tick labels of an axis that are inside its limits."""
    low, high = sorted(axis.get_view_interval())
    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
        for label in (tick.label1, tick.label2):
            if label.get_visible() and label.get_text() and low <= tick.get_loc() <= high and panel.axison:
                yield label
