"""The ten lines of Python in the README work as they stand there, in fewer steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.experiments.running import ROOT

BLOCK = re.compile(r"^<!-- test: python -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
QUICK = {"steps=500": "steps=6, width=16, evaluate_every=6", "limit=128": "limit=32, particles=10"}


def test_the_ten_lines_train_score_write_recall_and_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = BLOCK.findall((ROOT / "README.md").read_text())
    assert len([line for line in text.splitlines() if line]) <= 11
    for slow, quick in QUICK.items():
        assert text.count(slow) == 1
        text = text.replace(slow, quick)
    exec(text, names := {})
    assert names["recalled"].shape == names["images"].shape == (32, 1, 16, 16)
    assert names["memory"].value.shape == (4, 20, 40)
    assert "Test ELBO" in capsys.readouterr().out
    with Image.open(names["run"].folder.figures / "recalled.png") as picture:
        assert min(picture.size) > 100
