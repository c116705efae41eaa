"""The base of models and guides: a PyroModule to which plain networks cost nothing extra."""

from __future__ import annotations

from typing import Any

from pyro.nn import PyroModule
from torch import nn


class ProgramModule(PyroModule):
    """A PyroModule that returns its plain networks as they are.

    PyroModule records every parameter of a plain network at each access, for optimisers that learn of parameters from
    traces. Ours asks the module for them, and the records cost about a twentieth of a training step. Networks that are
    PyroModules themselves, `PyroParam` and `PyroSample` work as ever.
    """

    def __getattr__(self, name: str) -> Any:
        """Look a network up first, and anything else as PyroModule does."""
        network = self.__dict__.get("_modules", {}).get(name)
        if isinstance(network, nn.Module) and not isinstance(network, PyroModule):
            return network
        return super().__getattr__(name)
