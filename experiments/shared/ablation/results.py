"""Results of finished cells, and their means and standard errors over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.shared.ablation.cells import Cell
from inference.runs.load import read_run
from kpp_pyro.files.run_folder import RunFolder
from kpp_pyro.likelihoods import kl_sites

COST = "negative_log_likelihood_nats_per_image"
COST_WITH_MEMORY = "negative_complete_log_likelihood_nats_per_image"
NEGATIVE_ELBO = "negative_elbo_given_memory_nats_per_image"
GAIN = "memory_gain_nats_per_image"
UNTRUSTED = "pareto_k_above_limit_share"
UNTRUSTED_WITH_MEMORY = "complete_pareto_k_above_limit_share"
SECONDS = "training_seconds"


@dataclass(frozen=True)
class Measured:
    """Results of a finished cell.

    Attributes:
        quantities: by name with unit, without those that are unknown or do not apply to the model.
        trustworthy: whether k-hat is low enough; otherwise the cost is only an upper bound.
        limit: ln T, nats per image.
        stated: settings that the table states.
    """

    quantities: dict[str, float]
    trustworthy: bool
    limit: float
    stated: dict[str, Any]


def read_measured(cell: Cell) -> Measured:
    """Read the results in a finished cell's folder.

    Raises:
        InputError: a damaged file, or one of another version.
    """
    run, config = read_run(cell.folder)
    evaluation = run.read_evaluation()
    own, settings, complete = evaluation["scores"]["own"], evaluation["settings"], evaluation["complete"] or {}
    known = {
        COST: -own["log_likelihood_nats_per_image"],
        COST_WITH_MEMORY: _negative(complete.get("log_likelihood_nats_per_image")),
        NEGATIVE_ELBO: -own["elbo_nats_per_image"],
        **{name: own[name] for name in kl_sites(own)},
        GAIN: _last(run, GAIN, "test"),
        UNTRUSTED: own[UNTRUSTED],
        UNTRUSTED_WITH_MEMORY: complete.get(UNTRUSTED),
        SECONDS: _last(run, SECONDS, "validation"),
        **{name: settings[name] for name in ("parameters", "memory_scalars")},
    }
    stated = {**{name: settings[name] for name in _STATED}, "steps": config.training.steps}
    return Measured(
        {name: value for name, value in known.items() if value is not None},
        own["trustworthy"],
        -evaluation["limit_nats_per_image"],
        {**stated, **_machine(evaluation["environment"])},
    )


_STATED = ("dataset", "split", "binarization", "images", "particles", "episode_length", "precision")


def summarize_rows(cells: Sequence[Cell], measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """One row per combination: means and standard errors over the finished seeds.

    Args:
        cells: every cell of a grid.
        measured: results of the finished cells, by the name of the cell.
    """
    combinations: dict[tuple[tuple[str, str], ...], list[Cell]] = {}
    for cell in cells:
        combinations.setdefault(tuple(cell.labels.items()), []).append(cell)
    return [
        _row(dict(labels), len(members), [measured[cell.name] for cell in members if cell.name in measured])
        for labels, members in combinations.items()
    ]


def _row(labels: dict[str, str], seeds: int, found: Sequence[Measured]) -> dict[str, Any]:
    names = [name for name in (found[0].quantities if found else ()) if all(name in one.quantities for one in found)]
    values = {name: [one.quantities[name] for one in found] for name in names}
    return {
        "labels": labels,
        "seeds": seeds,
        "seeds_finished": len(found),
        "trustworthy": all(one.trustworthy for one in found) if found else None,
        "limit_nats_per_image": found[0].limit if found else None,
        "mean": {name: statistics.fmean(of_seeds) for name, of_seeds in values.items()},
        "standard_error": {name: standard_error_over_seeds(of_seeds) for name, of_seeds in values.items()},
    }


def standard_error_over_seeds(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None for a single value."""
    return None if len(values) < 2 else statistics.stdev(values) / math.sqrt(len(values))


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _last(run: RunFolder, name: str, split: str) -> float | None:
    """The last value of a quantity in the run's metrics of a split."""
    values = [record[name] for record in run.read_metrics() if record["split"] == split and name in record]
    return values[-1] if values else None


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Hardware, versions and commit as text."""
    versions = [f"{name} {environment['libraries'].get(name)}" for name in ("torch", "pyro-ppl")]
    threads = environment["cpu_threads"]
    cpu = f"{environment['machine']} CPU, {threads} thread{'' if threads == 1 else 's'} each"
    return {
        "hardware": environment["cuda_device"] or cpu,
        "versions": ", ".join([f"Python {environment['python']}", *versions]),
        "commit": environment["git_commit"],
    }
