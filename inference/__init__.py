"""The public API: build, train, load, score and use memory models.

    from inference import Config, corrupt, score, train

    run = train(Config.preset("digits", steps=500), "runs/digits")
    print(score(run, limit=64).own.log_likelihood.mean())  # ln p(x | M), nats per image
    images = run.episodes.test.first()  # (T, C, H, W)
    memory = run.memory.write(images)
    recalled = run.memory.recall(memory, corrupt(images, "salt_and_pepper", 0.3).images)[-1].images

`import kpp_pyro as kpp` offers the same names: `kpp.train`, `kpp.load`, ... The names are those of `api.py`, which is
imported at the first use of one of them.

Use one thread at a time: the random state of torch and the handlers of Pyro are those of the whole process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kpp_pyro.siblings import require_siblings

if TYPE_CHECKING:
    from inference.api import *

require_siblings("models")  # before the first import of models


def __getattr__(name: str) -> Any:
    """Look up a name of the public API."""
    if name == "__all__":
        return _api().__all__
    if name.startswith("_") or name not in (api := _api()).__all__:
        raise AttributeError(f"module 'inference' has no attribute {name!r}")
    return getattr(api, name)


def __dir__() -> list[str]:
    """Names of the public API."""
    return sorted({"__all__", "__doc__", "__name__", *_api().__all__})


def _api() -> Any:
    return import_module("inference.api")
