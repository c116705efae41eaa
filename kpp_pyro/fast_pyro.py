"""All that bends Pyro for speed. Plain Pyro in its place computes the same, and takes longer.

By how much was measured before these parts stood together: 8 to 11 % of a step on a CPU. Each saves:

| part               | in place of               | saves                                                      |
|--------------------|---------------------------|------------------------------------------------------------|
| `ExpandsOnce`      | `Distribution.expand`     | an expansion of each site for every plate around it        |
| `DiagonalNormal`   | `Normal(...).to_event(n)` | half the operations of every density of keys and latents   |
| `Plate`            | `pyro.plate`              | a site of each plate's subsample, as costly as a latent's  |
| `ProgramModule`    | `PyroModule`              | inside `unrecorded_parameters`, a record of each parameter |
|                    |                           | at every access, a twentieth of a step                     |
| `TensorTrace_ELBO` | `Trace_ELBO`              | traces, and waiting for the device at every site           |

`kpp_pyro.likelihoods.BernoulliImage` belongs to them: it saves a pass over the pixels. Nothing here is needed for
a program to be right: models and guides run as they are in SVI, Predictive, autoguides and any other part of Pyro.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import pyro.distributions as dist
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import is_validation_enabled, site_is_subsample
from torch import Size, Tensor

_unrecorded: ContextVar[bool] = ContextVar("unrecorded", default=False)
_numbers = itertools.count(1)


class ExpandsOnce:
    """A distribution that is itself in plates of its own shape: Pyro expands one for every plate around it.

    Its parameters were checked when it was made, and are not checked again; values are, as before.
    """

    _validate_args: bool
    batch_shape: Size

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """Expand to a batch shape; itself, where that is its own."""
        if Size(batch_shape) == self.batch_shape:
            return self
        wide = self._widened(Size(batch_shape))
        wide._validate_args = self._validate_args
        return wide

    @abstractmethod
    def _widened(self, batch_shape: Size) -> Self:
        """The distribution with its parameters expanded to a batch shape."""


class DiagonalNormal(ExpandsOnce, dist.Independent):  # type: ignore[override]  # in Pyro itself
    """`Normal(loc, scale).to_event(event_dims)`, which it is an instance of.

    It expands once (`ExpandsOnce`), and takes half the operations of torch's log-density of a normal: both cost more
    than the arithmetic where events are small.
    """

    def __init__(self, loc: Tensor, scale: Tensor, event_dims: int = 1, validate_args: bool | None = None) -> None:
        super().__init__(dist.Normal(loc, scale, validate_args=validate_args), event_dims, validate_args)

    def _widened(self, batch_shape: Size) -> DiagonalNormal:
        shape = batch_shape + self.event_shape
        loc, scale = self.base_dist.loc.expand(shape), self.base_dist.scale.expand(shape)
        return DiagonalNormal(loc, scale, len(self.event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        loc, scale, dims = self.base_dist.loc, self.base_dist.scale, len(self.event_shape)
        standard = (value - loc) / scale
        terms = standard.square() * -0.5 - scale.log()
        return terms.flatten(-dims).sum(-1) - 0.5 * math.log(2 * math.pi) * self.event_shape.numel()


class Plate(IndepMessenger):
    """`pyro.plate` of all its members: it has no subsample to draw, whose site would cost as much as a latent's."""

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
        BroadcastMessenger._pyro_sample(msg)


@contextmanager
def unrecorded_parameters() -> Iterator[None]:
    """Hand out the parameters of every `ProgramModule` that runs inside as they are: Pyro's store stays as it was.

    For optimisers and callers that ask the module for its parameters, as this project's do, rather than a trace.
    """
    token = _unrecorded.set(True)
    try:
        yield
    finally:
        _unrecorded.reset(token)


class ProgramModule(PyroModule):
    """A PyroModule with a name of its own, which can leave out recording its parameters.

    A root PyroModule records every parameter it is asked for, and all those of a plain network, in Pyro's global store,
    under its own name: two without one share their parameters. Here every module that is made, copied or loaded from a
    pickle is numbered. Inside `unrecorded_parameters` plain networks and parameters are returned as they are. Networks
    that are PyroModules themselves, `PyroParam` and `PyroSample` work as ever, at sites that start with the name.
    """

    def __init__(self) -> None:
        super().__init__(_new_name(type(self)))

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        old = self._pyro_name
        if "." not in old:  # else a part of another module, which names it
            new = _new_name(type(self))
            for module in self.modules():
                if isinstance(module, PyroModule) and f"{module._pyro_name}.".startswith(f"{old}."):
                    module._pyro_name = new + module._pyro_name.removeprefix(old)

    def __getattr__(self, name: str) -> Any:
        """Look up as PyroModule does; or, unrecorded, plain networks and parameters first."""
        if _unrecorded.get():
            own = self.__dict__
            network = own.get("_modules", {}).get(name)
            if network is not None and not isinstance(network, PyroModule):
                return network
            parameter = own.get("_parameters", {}).get(name)
            if parameter is not None:
                return parameter
        return super().__getattr__(name)


def _new_name(kind: type) -> str:
    return f"{kind.__name__}_{next(_numbers)}"


class TensorTrace_ELBO(Trace_ELBO):  # noqa: N801, as in Pyro
    """`Trace_ELBO`, in value and gradient, without waiting for the device and without keeping traces.

    `Trace_ELBO` reads the value of every site's log-probability, which makes a GPU's queue run dry and cannot be
    captured in a CUDA graph, and prepares terms for draws that carry no gradient, whether or not there are any. Where
    there are some, with validation on, and for several particles, this is `Trace_ELBO`.
    """

    _has_other_draws = False  # which carry no gradient

    def differentiable_loss(
        self, model: Callable[..., object], guide: Callable[..., object], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return -ELBO, summed over the episodes, differentiable: of one draw of the guide."""
        if is_validation_enabled() or self.num_particles > 1 or self._has_other_draws:
            return super().differentiable_loss(model, guide, *args, **kwargs)
        with _LogDensity({}) as posterior:
            guide(*args, **kwargs)
        if not posterior.reparametrised:
            self._has_other_draws = True
            return self.differentiable_loss(model, guide, *args, **kwargs)
        with _LogDensity(posterior.values) as joint:
            model(*args, **kwargs)
        return posterior.total - joint.total


class _LogDensity(Messenger):
    """Sums the log-densities of all sites of what runs inside, latent ones at the values given, or drawn and kept."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values, self.draws = values, not values
        self.total: Any = 0.0
        self.reparametrised = True

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        distribution, value = msg["fn"], msg["value"]
        self.values[msg["name"]] = value
        self.reparametrised &= distribution.has_rsample or msg["is_observed"]
        own_point = self.draws and isinstance(distribution, Delta) and not msg["is_observed"]  # need not be looked for
        log_density = distribution.log_density if own_point else distribution.log_prob(value)
        self.total = self.total + scale_and_mask(log_density, msg["scale"], msg["mask"]).sum()
