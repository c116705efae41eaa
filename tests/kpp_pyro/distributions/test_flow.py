"""Coupling flows: their density by quadrature and by an autograd Jacobian, and both directions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from kpp_pyro.distributions.flow import CouplingFlow, FlowNormal
from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import DiagonalNormal

CONTEXT = 4


def bent(size: int, context_size: int = CONTEXT) -> CouplingFlow:
    """A flow away from the identity."""
    flow = CouplingFlow(size, context_size).double()
    for coupling in flow.couplings:
        nn.init.normal_(coupling.nn.head.weight, std=0.12)
    return flow


def distribution(event: tuple[int, ...], *batch: int, flow: CouplingFlow | None = None) -> FlowNormal:
    loc, scale = torch.randn(*batch, *event).double(), torch.rand(*batch, *event).double() + 0.3
    flow = bent(loc[(0,) * len(batch)].numel()) if flow is None else flow
    return FlowNormal(loc, scale, flow(torch.randn(*batch, CONTEXT).double()), len(event))


def through(transforms: list, vector: Tensor) -> Tensor:
    for transform in transforms:
        vector = transform(vector)
    return vector


def test_the_density_in_two_dimensions_integrates_to_one_and_has_the_moments_of_draws() -> None:
    q = distribution((2,))
    axis = torch.linspace(-12, 12, 161, dtype=torch.float64)
    grid = q.mode + q.scale * torch.cartesian_prod(axis, axis)
    mass = q.log_prob(grid).exp() * q.scale.prod() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(mass.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-4)
    mean = (mass[:, None] * grid).sum(0)
    variance = (mass[:, None] * (grid - mean).square()).sum(0)
    draws = q.sample((20_000,))
    assert ((draws.mean(0) - mean).abs() < 5 * (variance / 20_000).sqrt()).all()
    squares = (draws - mean).square()
    assert ((squares.mean(0) - variance).abs() < 5 * squares.std(0) / 20_000**0.5).all()
    standard = (draws - mean) / variance.sqrt()
    assert (standard.pow(4).mean(0) - 3).abs().max() > 0.1  # it is not a normal


@pytest.mark.parametrize("event", [(2,), (5,), (2, 3)], ids=str)
def test_the_density_is_that_of_a_change_of_variables(event: tuple[int, ...]) -> None:
    q = distribution(event)
    size = q.event_shape.numel()
    for noise in torch.randn(4, size).double():
        value = q._transform(noise)
        slopes = jacobian(lambda u: q._transform(u).flatten(), noise)
        base = DiagonalNormal(torch.zeros(size).double(), torch.ones(size).double()).log_prob(noise)
        torch.testing.assert_close(q.log_prob(value), base - slopes.slogdet().logabsdet)


@pytest.mark.parametrize("size", [2, 3, 6, 11])
def test_back_and_forth_is_where_one_was(size: int) -> None:
    transforms = bent(size)(torch.randn(3, CONTEXT).double())
    vector = torch.randn(5, 3, size).double()
    moved = through(transforms, vector)
    assert (moved - vector).abs().mean() > 0.1
    torch.testing.assert_close(through([transform.inv for transform in reversed(transforms)], moved.clone()), vector)


@pytest.mark.parametrize("size", [2, 3, 6, 11])
def test_it_starts_close_to_the_identity_and_every_scalar_depends_on_every_other_later(size: int) -> None:
    context = torch.randn(CONTEXT).double()
    vector = torch.randn(100, size).double()
    moved = through(CouplingFlow(size, CONTEXT).double()(context), vector)
    assert 0 < (moved - vector).abs().max() < 1
    slopes = jacobian(lambda u: through(bent(size)(context), u), vector[0])
    assert (slopes != 0).all()


def test_contexts_tell_flows_apart_and_without_one_there_is_one_flow() -> None:
    flow, vector = bent(4), torch.randn(4).double()
    first, second = (through(flow(context), vector) for context in torch.randn(2, CONTEXT).double())
    assert not torch.isclose(first, second).any()
    assert through(bent(4, 0)(), vector).shape == (4,)


def test_a_density_is_computed_from_its_value_alone() -> None:
    flow = bent(4)
    q = FlowNormal(torch.zeros(4).double(), torch.ones(4).double(), flow(torch.ones(CONTEXT).double()))
    drawn, parameters = q.sample((5,)), list(flow.parameters())
    copied = drawn.clone()
    torch.testing.assert_close(q.log_prob(drawn), q.log_prob(copied))
    own, other = (
        torch.autograd.grad(q.log_prob(value).sum(), parameters, retain_graph=True) for value in (drawn, copied)
    )
    torch.testing.assert_close(own, other)  # a draw without gradient is a value like any other
    kept = q.rsample((5,))
    torch.testing.assert_close(q.log_prob(kept), q.log_prob(kept.detach()))


def test_it_expands_to_new_plates_and_stays_itself_in_its_own() -> None:
    q = distribution((2, 3), 4, 1, flow=bent(6))
    assert q.expand((4, 1)) is q
    wide = q.expand((7, 4, 5))
    draws = wide.rsample((2,))
    assert draws.shape == (2, 7, 4, 5, 2, 3) and wide.mode.shape == (7, 4, 5, 2, 3)
    assert not torch.isclose(draws[0, 0, 0, 0], draws[0, 0, 0, 1]).any()
    torch.testing.assert_close(wide.log_prob(draws), q.log_prob(draws))
    assert wide.log_prob(draws[0, 0, 0, 0]).shape == (7, 4, 5)
    torch.testing.assert_close(wide.mode[3, :, 2], q.mode[:, 0])


def test_gradients_of_draws_and_densities() -> None:
    flow = bent(4)

    def function(loc: Tensor, scale: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        q = FlowNormal(loc, scale, flow(context), 2)
        draws = q.rsample((2,))
        return draws, q.log_prob(draws), q.log_prob(points), q.mode

    points = torch.randn(3, 2, 2, 2).double()
    inputs = torch.randn(2, 2, 2), torch.rand(2, 2, 2) + 0.5, torch.randn(2, CONTEXT)
    assert torch.autograd.gradcheck(function, [tensor.double().requires_grad_() for tensor in inputs])


def test_a_flow_in_use_can_be_copied() -> None:
    flow = CouplingFlow(4)
    q = FlowNormal(torch.zeros(4), torch.ones(4), flow())
    q.log_prob(q.rsample()).backward()
    torch.testing.assert_close(through(copy.deepcopy(flow)(), torch.ones(4)), through(flow(), torch.ones(4)))


def test_a_single_scalar_has_no_halves() -> None:
    with pytest.raises(InputError, match="at least 2 scalars, found 1"):
        CouplingFlow(1)
