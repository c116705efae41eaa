"""Every registry of parts, by the field or the flag that chooses from it, and what may be added to them."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isabstract
from typing import Any

from torch import nn

from inference.objectives import OBJECTIVES
from inference.objectives.interface import ObjectiveKind
from inference.runs.loggers import LOGGERS
from inference.runs.loggers.interface import LoggerKind
from kpp_pyro.config_part import flag, require_name
from kpp_pyro.corruptions import CORRUPTIONS, Corruption
from kpp_pyro.data.datasets import DATASETS, DataSource
from kpp_pyro.errors import InputError
from kpp_pyro.likelihoods import LIKELIHOODS
from kpp_pyro.likelihoods.interface import Likelihood
from kpp_pyro.networks import EPISODE_ENCODERS, NETWORKS
from kpp_pyro.networks.interface import EpisodeEncoder, NetworkFamily
from kpp_pyro.posteriors import POSTERIORS, Posterior
from kpp_pyro.priors import KEY_PRIORS, LATENT_PRIORS, MEMORY_PRIORS, KeyPrior, LatentPriorKind, MemoryPriorKind
from kpp_pyro.writes import WRITES, Write
from models.registry import MODELS, ModelKind


@dataclass(frozen=True)
class Registry:
    """Parts of one kind.

    Attributes:
        parts: by name.
        kind: base class of the parts. A part is a class if its base is a module, and otherwise an object.
    """

    parts: dict[str, Any]
    kind: type

    @property
    def holds_classes(self) -> bool:
        """Whether its parts are classes."""
        return issubclass(self.kind, nn.Module)


REGISTRIES: dict[str, Registry] = {
    "model": Registry(MODELS, ModelKind),
    "likelihood": Registry(LIKELIHOODS, Likelihood),
    "key_prior": Registry(KEY_PRIORS, KeyPrior),
    "latent_prior": Registry(LATENT_PRIORS, LatentPriorKind),
    "memory_prior": Registry(MEMORY_PRIORS, MemoryPriorKind),
    "key_guide": Registry(POSTERIORS, Posterior),
    "latent_guide": Registry(POSTERIORS, Posterior),
    "write": Registry(WRITES, Write),
    "networks": Registry(NETWORKS, NetworkFamily),
    "episode_encoder": Registry(EPISODE_ENCODERS, EpisodeEncoder),
    "dataset": Registry(DATASETS, DataSource),
    "objective": Registry(OBJECTIVES, ObjectiveKind),
    "logger": Registry(LOGGERS, LoggerKind),
    "corruption": Registry(CORRUPTIONS, Corruption),
}


@contextmanager
def registering(plugin: str, may_be_empty: bool = False) -> Iterator[set[tuple[str, str]]]:
    """Run a plug-in inside this context. After an error, the registries are as they were.

    Args:
        plugin: its name, for messages.
        may_be_empty: whether it may register nothing.

    Yields:
        The set that holds what was registered once the context ends, pairs of a field and a name.

    Raises:
        InputError: an error in the plug-in, no new part, a part of another kind, or a name that is taken.
    """
    before = {field: dict(registry.parts) for field, registry in REGISTRIES.items()}
    parts: set[tuple[str, str]] = set()
    try:
        yield parts
        for field, registry in REGISTRIES.items():
            parts |= {(field, name) for name in _new_parts(plugin, field, registry, before[field])}
        if not (parts or may_be_empty):
            raise InputError(f"{plugin}: expected a plug-in that registers a part, found none registered")
    except BaseException as error:
        for field, registry in REGISTRIES.items():
            registry.parts.clear()
            registry.parts.update(before[field])
        if isinstance(error, InputError) and str(error).startswith(f"{plugin}: "):
            raise
        if isinstance(error, Exception | SystemExit):
            raise InputError(f"{plugin}: expected a plug-in, found {_failure(plugin, error)}") from error
        raise


def _failure(plugin: str, error: BaseException) -> str:
    """What went wrong in a plug-in, with the line of a file."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{plugin}.".startswith(f"{error.name}."):
        return "neither a file whose name ends in .py nor a module"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == plugin]
    line = error.lineno if isinstance(error, SyntaxError) else next(iter(lines[::-1]), None)
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    where = f" in line {line}" if line else ""
    return f"{type(error).__name__}{where}{f': {message:.200}' if message else ''}"


def _new_parts(plugin: str, field: str, registry: Registry, before: Mapping[str, Any]) -> list[str]:
    """Names that a plug-in has added to a registry.

    Raises:
        InputError: a name that was taken, one that cannot be, or a part of another kind.
    """
    for name, part in before.items():
        if name not in registry.parts:
            raise InputError(f"{plugin}: expected every {flag(field)} to stay, found {name} removed by the plug-in")
        if registry.parts[name] is not part:
            raise InputError(f"{plugin}: expected a new name for {flag(field)}, found {name}, which is taken")
    new = [name for name in registry.parts if name not in before]
    for name in new:
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name, re.ASCII):
            what = f"{flag(field)}: expected a name of letters, digits and _, found {name!r:.100}"
            raise InputError(f"{plugin}: {what}")
        where = f"{plugin}: {flag(field)} {name}"
        _require_part(where, registry.parts[name], registry)
        _require_kin(where, registry.parts[name], registry)
    return new


def _require_part(where: str, part: Any, registry: Registry) -> None:
    """Raise InputError unless a part is what its registry holds."""
    kind = registry.kind.__name__
    if registry.holds_classes:
        if not (isinstance(part, type) and issubclass(part, registry.kind)):
            raise InputError(f"{where}: expected a class derived from {kind}, found {part!r:.100}")
        if isabstract(part):
            missing = ", ".join(sorted(vars(part)["__abstractmethods__"]))
            raise InputError(f"{where}: expected a class with all methods of {kind}, found one without {missing}")
    elif not isinstance(part, registry.kind):
        raise InputError(f"{where}: expected an object of {kind}, found {part!r:.100}")


def _require_kin(where: str, part: Any, registry: Registry) -> None:
    """Raise InputError unless the part that a part is `like`, if any, is registered."""
    like = getattr(part, "like", None)
    if like is None:
        return
    try:
        require_name(like, registry.parts)
    except ValueError as error:
        raise InputError(f"{where}: like: {error}") from None
