"""What bends Pyro for speed: it computes what Pyro computes, and leaves out of its records only what it must."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import kl_divergence

from kpp_pyro.fast_pyro import DiagonalNormal, Plate, ProgramModule, unrecorded_parameters


def pair(event_dims: int, *batch: int) -> tuple[DiagonalNormal, dist.Independent]:
    shape = batch + (3, 2)[:event_dims]
    generator = torch.Generator().manual_seed(2)
    loc = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    scale = (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.2).requires_grad_()
    return DiagonalNormal(loc, scale, event_dims), dist.Normal(loc, scale).to_event(event_dims)


@pytest.mark.parametrize("event_dims", [1, 2])
@pytest.mark.parametrize("samples", [(), (5,)])
def test_density_and_gradients_are_those_of_independent_normals(event_dims: int, samples: tuple[int, ...]) -> None:
    ours, theirs = pair(event_dims, 4, 3)
    value = theirs.sample(samples).requires_grad_()
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value), rtol=1e-13, atol=1e-13)
    inputs = (value, theirs.base_dist.loc, theirs.base_dist.scale)
    gradients = (torch.autograd.grad(q.log_prob(value).sin().sum(), inputs) for q in (ours, theirs))
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


def test_it_expands_to_new_plates_and_stays_itself_in_its_own() -> None:
    ours, theirs = pair(1, 4, 1)
    assert ours.expand((4, 1)) is ours
    wide, wider = ours.expand((7, 4, 5)), theirs.expand((7, 4, 5))
    value = wider.sample()
    assert wide.batch_shape == (7, 4, 5) and wide.event_shape == ours.event_shape == theirs.event_shape
    torch.testing.assert_close(wide.log_prob(value), wider.log_prob(value))
    torch.testing.assert_close(wide.mean, wider.mean)


def test_draws_and_divergences_are_those_of_independent_normals() -> None:
    ours, theirs = pair(2, 4)
    prior = DiagonalNormal(torch.zeros(3, 2).double(), torch.ones(3, 2).double(), 2)
    torch.testing.assert_close(kl_divergence(ours, prior), kl_divergence(theirs, prior))
    torch.manual_seed(3)
    drawn = ours.rsample((6,))
    torch.manual_seed(3)
    assert torch.equal(drawn, theirs.rsample((6,)))


def test_a_value_of_another_shape_is_refused() -> None:
    ours, _ = pair(2, 4)
    with pytest.raises(ValueError, match="right-most"):
        DiagonalNormal(ours.mean, ours.stddev, 2, validate_args=True).log_prob(torch.zeros(4, 3, 5))


class Program(ProgramModule):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.plain = nn.Linear(2, 1)
        self.bayesian = PyroModule[nn.Linear](2, 1)
        self.bayesian.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.level = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.plain(inputs) + self.bayesian(inputs) + self.level + self.shift


@pytest.mark.parametrize("recorded", [True, False])
def test_random_weights_are_sites_and_plain_networks_are_recorded_unless_it_is_left_out(recorded: bool) -> None:
    program = Program()
    with nullcontext() if recorded else unrecorded_parameters():
        trace = poutine.trace(program).get_trace(torch.ones(3, 2))
    name = program._pyro_name
    assert set(trace.stochastic_nodes) == {f"{name}.bayesian.weight", f"{name}.level"}
    plain = {f"{name}.plain$$$weight", f"{name}.plain$$$bias", f"{name}.shift"} if recorded else set()
    assert set(pyro.get_param_store().keys()) == {f"{name}.bayesian.bias", *plain}
    assert {"shift", "plain.weight", "plain.bias", "bayesian.bias"} == {name for name, _ in program.named_parameters()}


def test_every_module_and_every_copy_has_parameters_of_its_own_under_names_of_its_own() -> None:
    first, second = Program(), Program()
    first(torch.ones(3, 2))  # a root that has run
    copied, unpickled = copy.deepcopy(first), pickle.loads(pickle.dumps(first))
    programs = (first, second, copied, unpickled)
    for program in programs:
        program(torch.ones(3, 2))
    store = dict(pyro.get_param_store().named_parameters())
    assert len(store) == 4 * 4
    for program in programs:
        name = program._pyro_name
        assert program.bayesian._pyro_name == f"{name}.bayesian"
        assert store[f"{name}.plain$$$weight"] is program.plain.weight
        assert store[f"{name}.bayesian.bias"] is program.bayesian._parameters["bias"]


def test_a_state_that_is_loaded_is_what_the_store_holds() -> None:
    program, other = Program(), Program()
    program(torch.ones(3, 2))
    program.load_state_dict(other.state_dict())
    program(torch.ones(3, 2))
    name = program._pyro_name
    assert torch.equal(program.plain.weight, other.plain.weight)
    assert pyro.get_param_store()[f"{name}.plain$$$weight"] is program.plain.weight


def test_a_part_of_another_module_is_named_by_it() -> None:
    class Whole(ProgramModule):
        def __init__(self) -> None:
            super().__init__()
            self.part = Program()

    whole = Whole()
    copied = copy.deepcopy(whole)
    assert len({whole._pyro_name, copied._pyro_name}) == 2
    for module in (whole, copied):
        assert module.part._pyro_name == f"{module._pyro_name}.part"
        assert module.part.bayesian._pyro_name == f"{module._pyro_name}.part.bayesian"


@pytest.mark.parametrize("recorded", [True, False])
def test_what_is_not_there_is_missed_by_name(recorded: bool) -> None:
    with nullcontext() if recorded else unrecorded_parameters(), pytest.raises(AttributeError, match="nothing"):
        _ = Program().nothing


@pytest.mark.parametrize("particles", [None, 4])
def test_sites_in_plates_are_those_in_pyros_own(particles: int | None) -> None:
    def program(plate: type) -> poutine.Trace:
        def run() -> None:
            with plate("episodes", 3, dim=-2):
                pyro.sample("memory", dist.Normal(torch.zeros(3, 1, 2), 1.0).to_event(1))
                with plate("images", 5, dim=-1):
                    pyro.sample("key", dist.Normal(0.0, 1.0))

        def all_particles() -> None:
            with pyro.plate("particles", particles, dim=-3):
                run()

        torch.manual_seed(1)
        return poutine.trace(all_particles if particles else run).get_trace()

    ours, theirs = program(Plate), program(pyro.plate)
    for name in ("memory", "key"):
        own, other = ours.nodes[name], theirs.nodes[name]
        assert torch.equal(own["value"], other["value"])
        assert own["fn"].batch_shape == other["fn"].batch_shape and own["scale"] == other["scale"] == 1
        assert [(f.name, f.dim, f.size) for f in own["cond_indep_stack"]] == [
            (f.name, f.dim, f.size) for f in other["cond_indep_stack"]
        ]


def test_a_value_of_another_size_than_its_plate_is_refused() -> None:
    with pytest.raises(ValueError, match="images"), Plate("images", 5, dim=-1):
        pyro.sample("key", dist.Normal(torch.zeros(4), 1.0))
