"""What the tests of scripts that look at a trained run share: small runs, and what their reports have to state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

# fmt: off
LEARNED = [
    "--width", "64", "--steps", "150", "--evaluate-every", "150", "--warmup-steps", "20", "--episodes-per-step", "4",
    "--episode-length", "16", "--memory-width", "20", "--precision", "float32",
]
# fmt: on
STATED = {  # settings of a report on a run of LEARNED
    "dataset": "digits",
    "split": "test",
    "episode_length": 16,
    "classes_per_episode": None,
    "binarization": "static",
    "seed": 0,
    "checkpoint_step": 150,
    "precision": "float32",
    "write": "allocate",
    "reads": 1,
    "image_shape": [1, 16, 16],
    "memory_scalars": 1600,
}
KINDS = {
    "several reads": ["--reads", "5", "--block-height", "1", "--block-width", "5"],
    "feed forward": ["--write", "feed_forward"],
    "classes": ["--classes-per-episode", "3", "--episode-length", "8"],
    "single images": ["--episode-length", "1"],
}


def read_report(path: Path) -> dict[str, Any]:
    """What a script wrote, without what no two machines share."""
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    del content["environment"]
    return content


def assert_states(folder: Path, name: str, expected: dict[str, Any]) -> None:
    """A report of a run of LEARNED holds all that a table has to state, and nothing half-written is left beside it."""
    content, expected = json.loads((folder / name).read_text()), {**STATED, **expected}
    settings = content["settings"]
    assert {key: settings[key] for key in expected} == expected and settings["parameters"] > 1000
    assert "git_commit" in content["environment"]
    assert not list(folder.glob(".*.partial"))
