"""The figure of RESULTS.md that joins two ablations."""

from __future__ import annotations

import importlib
import json

import pytest

from experiments.shared.ablation.results import COST, NEGATIVE_ELBO
from kpp_pyro.errors import InputError
from tests.experiments.running import ROOT


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("draw_memory_size")


def ablation(folder, *rows):
    folder.mkdir()
    (folder / "ablation.json").write_text(json.dumps({"rows": rows}))
    return folder


def row(scalars, name, cost=None, trustworthy=True, axis="memory scalars"):
    costs = {} if cost is None else {COST: cost, NEGATIVE_ELBO: cost + 1}
    mean = {"memory_scalars": scalars, **costs}
    return {"labels": {axis: str(scalars), "model": name}, "mean": mean, "trustworthy": trustworthy}


def test_rows_of_all_ablations_are_in_one_table_and_what_is_not_trusted_is_a_bound(script, tmp_path):
    folders = [
        ablation(tmp_path / "one", row(3200, "signs", 13.04), row(96, "signs", 70.3, trustworthy=False)),
        ablation(tmp_path / "two", row(1000, "rival", 91.2), row(10_000, "rival")),  # the last one has failed
    ]
    costs = script.read_costs(folders)
    assert script.table(costs).splitlines()[2:] == [
        "| signs | 96 | ≤ 70.3 | 71.3 |",
        "| signs | 3,200 | 13.0 | 14.0 |",
        "| rival | 1,000 | 91.2 | 92.2 |",
    ]
    script.plot(costs, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_what_is_no_ablation_of_memory_sizes_is_refused_by_name(script, tmp_path):
    with pytest.raises(InputError, match="found none"):
        script.read_costs([])
    with pytest.raises(InputError, match=r"nowhere/ablation\.json: expected the memory sizes"):
        script.read_costs([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"other/ablation\.json: expected the memory sizes.*memory scalars"):
        script.read_costs([ablation(tmp_path / "other", row(3200, "signs", 13.0, axis="block size"))])
