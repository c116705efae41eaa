"""The names of the public API, which `inference` offers."""

from __future__ import annotations

from inference.collection.collection import Collection
from inference.collection.records import Match, Recalled
from inference.errors import DivergenceError
from inference.importance.scoring import Scores
from inference.runs.config import Config
from inference.runs.load import Run, load
from inference.runs.plugins import load_plugins
from inference.runs.pretrained import load_pretrained, pretrained_names
from inference.runs.score import score
from inference.runs.training_run import train
from inference.trained_memory import Decoded, Memory, Read, TrainedMemory
from kpp_pyro.corruptions import corrupt
from kpp_pyro.data import named_pictures, read_pictures
from kpp_pyro.errors import InputError, OutputError
from models.build import build
from models.pair import Pair

__all__ = [
    "Collection",
    "Config",
    "Decoded",
    "DivergenceError",
    "InputError",
    "Match",
    "Memory",
    "OutputError",
    "Pair",
    "Read",
    "Recalled",
    "Run",
    "Scores",
    "TrainedMemory",
    "build",
    "corrupt",
    "load",
    "load_plugins",
    "load_pretrained",
    "named_pictures",
    "pretrained_names",
    "read_pictures",
    "score",
    "train",
]
