"""What models and guides are made of: a module to which plain networks cost nothing extra, and plates that hold all."""

from __future__ import annotations

from typing import Any

from pyro.nn import PyroModule
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import IndepMessenger
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


class Plate(IndepMessenger):
    """`pyro.plate` of all its members: it has no subsample to draw, whose site would cost as much as a latent's."""

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
        BroadcastMessenger._pyro_sample(msg)
