"""Short variants of what the documentation does: data sets that stand in for others, runs of three steps, few draws."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from torch.nn.functional import interpolate

import experiments.evaluate
import inference.runs.plots
import inference.runs.training_run
from inference.runs.config import Config
from inference.runs.training_run import TrainingRun
from kpp_pyro.data import DATASETS
from kpp_pyro.data.datasets import DataSource
from kpp_pyro.data.digits import load_digits
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.files.run_folder import RunFolder
from tests.experiments.joined import quick_search
from tests.experiments.running import without_figures

OF_CALLS = {
    "particles": 8,
    "limit": 8,
    "control_particles": 4,
    "refine_steps": 2,
    "temperatures": 2,
    "chains": 2,
    "warmup": 2,
    "draws": 4,
    "max_tree_depth": 2,
}
"""The most that an argument may be, by its name: in calls of Python."""
OF_SCRIPTS = OF_CALLS | {"posterior_images": 1, "memories": 2, "steps": 2}
OF_RUNS = {"steps": 3, "evaluate_every": 3, "width": 16, "episodes_per_step": 2, "content_steps": 1, "encoder_steps": 1}
GREY, COLOUR = (1, 28), (3, 32)  # channels, and pixels of a side


@contextmanager
def short_runs() -> Iterator[None]:
    """Train runs of three steps on images that need no download, score them by little, and draw no figures of runs."""
    with pytest.MonkeyPatch.context() as patch, without_figures(), quick_search():
        patch.setattr(inference.runs.training_run, "TrainingRun", ShortRun)
        patch.setattr(experiments.evaluate, "_POSTERIOR_DRAWS", 40)
        for name in [name for name in vars(inference.runs.plots) if name.startswith("plot_")]:
            patch.setattr(inference.runs.plots, name, lambda *_: {})
        for name, source in list(DATASETS.items()):
            if source.reads_data_dir and not source.own:
                patch.setitem(DATASETS, name, stand_in(name, source))
        yield


class ShortRun(TrainingRun):
    """Training of the same configuration, but for its size."""

    def __init__(self, folder: RunFolder, config: Config, *others: Any) -> None:
        given = config.flat()
        smaller = {name: min(given[name], most) for name, most in OF_RUNS.items()}
        super().__init__(folder, config.replace(**smaller, patience=None, device="cpu", workers=1), *others)


def stand_in(name: str, source: DataSource) -> DataSource:
    """The digits, as large as the images of a data set."""
    channels, side = COLOUR if "cifar10" in (name, source.like) else GREY

    def resized(digits: LabelledImages, size: int) -> LabelledImages:
        images = interpolate(digits.images.float(), (size, size)).byte()
        return replace(digits, images=images.expand(-1, channels, -1, -1).contiguous())

    def load(data_dir: Path, size: int = side) -> ImageSplits:
        digits = load_digits(data_dir)
        return ImageSplits(name, *(resized(part, size) for part in (digits.train, digits.validation, digits.test)))

    return replace(source, load=load, downloads=False)


def shortened(parse: Callable[..., Any]) -> Callable[..., Any]:
    """The `parse` of a script, with at most a few draws."""

    def parse_short(*given: Any) -> Any:
        arguments = parse(*given)
        found = {field.name: getattr(arguments, field.name) for field in fields(arguments) if field.name in OF_SCRIPTS}
        return replace(arguments, **{name: least(value, OF_SCRIPTS[name]) for name, value in found.items()})

    return parse_short


class Shorter(ast.NodeTransformer):
    """Of a block of Python: fewer draws in every call, those of `score` too where it is left to its defaults."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if called(node) == "score":
            given = [keyword.arg for keyword in node.keywords]
            missing = [name for name in ("particles", "limit") if name not in given]
            node.keywords += [ast.keyword(name, ast.Constant(None)) for name in missing]
        for keyword in node.keywords:
            if keyword.arg in OF_CALLS and isinstance(keyword.value, ast.Constant):
                keyword.value = ast.Constant(least(keyword.value.value, OF_CALLS[keyword.arg]))
        return ast.fix_missing_locations(node)


def called(call: ast.Call) -> str:
    """The last name of what is called: "load" of `kpp.load(...)`."""
    return ast.unparse(call.func).rpartition(".")[-1]


def least(given: Any, most: int) -> int:
    """The smaller number; None is a default, which is larger."""
    return most if given is None else min(given, most)
