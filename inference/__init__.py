"""The public API: build, train, load, score and use memory models.

    from inference import Config, corrupt, score, train

    run = train(Config.preset("digits", steps=500), "runs/digits")
    print(score(run, limit=64).own.log_likelihood.mean())  # ln p(x | M), nats per image
    images = run.episodes.test.first()  # (T, C, H, W)
    memory = run.memory.write(images)
    recalled = run.memory.recall(memory, corrupt(images, "salt_and_pepper", 0.3).images)[-1].images

`import kpp_pyro as kpp` offers the same names: `kpp.train`, `kpp.load`, ...

Use one thread at a time: the random state of torch and the handlers of Pyro are those of the whole process.
"""

from __future__ import annotations

from kpp_pyro.siblings import require_siblings

require_siblings("models")  # before the first import of models

from inference.collection.collection import Collection, Match, Recalled
from inference.errors import DivergenceError
from inference.importance.scoring import Scores
from inference.runs.config import Config
from inference.runs.load import Run, load
from inference.runs.pretrained import load_pretrained, pretrained_names
from inference.runs.score import score
from inference.runs.training_run import train
from inference.trained_memory import Decoded, Memory, Read, TrainedMemory
from kpp_pyro.corruptions import corrupt
from kpp_pyro.data import read_pictures
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
    "load_pretrained",
    "pretrained_names",
    "read_pictures",
    "score",
    "train",
]
