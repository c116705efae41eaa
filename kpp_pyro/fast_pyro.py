"""Faster replacements for parts of Pyro. Plain Pyro computes the same values and gradients.

Together they save 8 to 11 % of a training step on a CPU. Each saves:

| replacement        | replaces                  | saves                                                       |
|--------------------|---------------------------|-------------------------------------------------------------|
| `ExpandsOnce`      | `Distribution.expand`     | one expansion of each site for every plate around the site  |
| `DiagonalNormal`   | `Normal(...).to_event(n)` | half the operations of each log-density of keys and latents |
| `Plate`            | `pyro.plate`              | the subsample site of each plate, as costly as a latent     |
| `ProgramModule`    | `PyroModule`              | inside `unrecorded_parameters`, recording each parameter at |
|                    |                           | every access: 5 % of a step                                 |
| `TensorTrace_ELBO` | `Trace_ELBO`              | traces, and a device synchronisation at every site          |

`kpp_pyro.likelihoods.bernoulli.BernoulliImage` is one more: on a CPU it saves a slow logarithm. No program needs these
replacements to be correct: models and guides run unchanged in SVI, Predictive, autoguides and any other part of Pyro.
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
    """A distribution whose `expand` returns the distribution itself if the batch shape is already right.

    Pyro expands the distribution of a site once for every plate around the site. The parameters are validated when the
    distribution is constructed and not again when it is expanded; values are validated as in any distribution.
    """

    _validate_args: bool
    batch_shape: Size

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """Expand to a batch shape; return the distribution itself if it has that batch shape."""
        if Size(batch_shape) == self.batch_shape:
            return self
        expanded = self._expanded(Size(batch_shape))
        expanded._validate_args = self._validate_args
        return expanded

    @abstractmethod
    def _expanded(self, batch_shape: Size) -> Self:
        """A copy whose parameters are expanded to a batch shape."""


class DiagonalNormal(ExpandsOnce, dist.Independent):  # type: ignore[override]  # in Pyro itself
    """`Normal(loc, scale).to_event(event_dims)`, faster: see `ExpandsOnce`, and half the operations in `log_prob`.

    For small events, expansion and the number of operations cost more than the arithmetic.

    Args:
        loc: (..., *event).
        scale: (..., *event), positive.
        event_dims: number of event dimensions.
        validate_args: as in any Pyro distribution.
    """

    def __init__(self, loc: Tensor, scale: Tensor, event_dims: int = 1, validate_args: bool | None = None) -> None:
        super().__init__(dist.Normal(loc, scale, validate_args=validate_args), event_dims, validate_args)

    def _expanded(self, batch_shape: Size) -> DiagonalNormal:
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
    """`pyro.plate` without subsampling, and therefore without the subsample site, which costs as much as a latent."""

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
        BroadcastMessenger._pyro_sample(msg)


@contextmanager
def unrecorded_parameters() -> Iterator[None]:
    """Inside this context, no `ProgramModule` records its parameters in Pyro's parameter store.

    For code that takes parameters from `module.parameters()`, as this project does, and not from a trace.
    """
    token = _unrecorded.set(True)
    try:
        yield
    finally:
        _unrecorded.reset(token)


class ProgramModule(PyroModule):
    """A PyroModule with a unique name, which does not record its parameters inside `unrecorded_parameters`.

    A root PyroModule records each parameter that is accessed, and all parameters of a plain network, in Pyro's global
    store. The keys start with the module's name, so that two modules without a name share their parameters. Here every
    module that is constructed, copied or unpickled gets a number in its name. Inside `unrecorded_parameters`, plain
    networks and parameters are returned without a record. Submodules that are PyroModules, `PyroParam` and `PyroSample`
    work as in any PyroModule; their sites start with the module's name.
    """

    def __init__(self) -> None:
        super().__init__(_new_name(type(self)))

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        old = self._pyro_name
        if "." not in old:  # a root module; a submodule is named by its root
            new = _new_name(type(self))
            for module in self.modules():
                if isinstance(module, PyroModule) and f"{module._pyro_name}.".startswith(f"{old}."):
                    module._pyro_name = new + module._pyro_name.removeprefix(old)

    def __getattr__(self, name: str) -> Any:
        """PyroModule's lookup; inside `unrecorded_parameters`, plain networks and parameters come first."""
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
    """The name of the class and the next number."""
    return f"{kind.__name__}_{next(_numbers)}"


class TensorTrace_ELBO(Trace_ELBO):  # noqa: N801, as in Pyro
    """`Trace_ELBO` with the same value and gradient, without traces and without device synchronisation.

    `Trace_ELBO` reads the value of every site's log-probability on the host: a GPU's queue runs empty, and the step
    cannot be captured in a CUDA graph. It also prepares terms for draws that are not reparametrised, even if there are
    none. With such draws, with validation on, or with several particles, this class runs `Trace_ELBO` itself.
    """

    _has_score_function_draws = False  # draws that are not reparametrised

    def differentiable_loss(
        self, model: Callable[..., object], guide: Callable[..., object], *args: Any, **kwargs: Any
    ) -> Tensor:
        """-ELBO in nats from one draw of the guide, summed over the episodes; a differentiable scalar."""
        if is_validation_enabled() or self.num_particles > 1 or self._has_score_function_draws:
            return super().differentiable_loss(model, guide, *args, **kwargs)
        with _LogDensity({}) as posterior:
            guide(*args, **kwargs)
        if not posterior.reparametrised:
            self._has_score_function_draws = True
            return self.differentiable_loss(model, guide, *args, **kwargs)
        with _LogDensity(posterior.values) as joint:
            model(*args, **kwargs)
        return posterior.total - joint.total


class _LogDensity(Messenger):
    """Sums the log-densities of all sites of the program that runs inside.

    Args:
        values: values of the latent sites; if empty, latent sites are sampled and their values stored here.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values, self.samples = values, not values
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
        sampled_delta = self.samples and isinstance(distribution, Delta) and not msg["is_observed"]
        log_density = distribution.log_density if sampled_delta else distribution.log_prob(value)  # no comparison
        self.total = self.total + scale_and_mask(log_density, msg["scale"], msg["mask"]).sum()
