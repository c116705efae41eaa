"""The base of models and guides: what it leaves out of Pyro's records, and what it must not."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import nn

from kpp_pyro.fast_pyro import Plate, ProgramModule


class Program(ProgramModule):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(2, 1)
        self.bayesian = PyroModule[nn.Linear](2, 1)
        self.bayesian.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.level = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.plain(inputs) + self.bayesian(inputs) + self.level


def test_random_weights_are_sites_and_plain_networks_are_not() -> None:
    program = Program()
    trace = poutine.trace(program).get_trace(torch.ones(3, 2))
    assert set(trace.stochastic_nodes) == {"bayesian.weight", "level"}
    assert not [name for name in trace.param_nodes if name.startswith("plain")]
    assert {"plain.weight", "plain.bias", "bayesian.bias"} == {name for name, _ in program.named_parameters()}


def test_what_is_not_there_is_missed_by_name() -> None:
    with pytest.raises(AttributeError, match="nothing"):
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
