"""Balanced assignments: soft ones are the optimum that they are said to be, hard ones keep to the capacities."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from kpp_pyro.writes.assignment import round_assignment, sinkhorn

SIZES = [(6, 6), (12, 4), (5, 3), (4, 1), (1, 1)]
every_size = pytest.mark.parametrize(("rows", "columns"), SIZES)


def random_scores(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@every_size
def test_rows_sum_to_one_and_columns_share_alike(rows, columns):
    shares, potential = sinkhorn(2 * random_scores(2, 7, rows, columns), 500)
    assert shares.shape == (2, 7, rows, columns) and potential.shape == (2, 7, 1, columns)
    torch.testing.assert_close(shares.sum(-1), torch.ones_like(shares[..., 0]))
    torch.testing.assert_close(shares.sum(-2), torch.full_like(shares[..., 0, :], rows / columns))


def test_no_other_balanced_assignment_has_more_score_and_entropy():
    scores = random_scores(8, 4)
    shares, _ = sinkhorn(scores, 300)

    def objective(assignment):
        return (assignment * (scores - assignment.log())).sum()

    for _ in range(20):
        move = 0.05 * random_scores(8, 4)
        move = move - move.mean(0) - move.mean(1, keepdim=True) + move.mean()  # rows and columns keep their sums
        assert objective((shares + move * shares.min()).clamp(min=1e-9)) < objective(shares)


def test_a_sharp_assignment_is_the_best_matching():
    scores = random_scores(5, 7, 7)
    shares, potential = sinkhorn(scores / 0.05, 50)
    for temperature in (0.02, 0.005):
        shares, potential = sinkhorn(scores / temperature, 500, potential * 2.5)
    for one, found in zip(scores, round_assignment(shares), strict=True):
        assert found.tolist() == linear_sum_assignment(one, maximize=True)[1].tolist()


def test_more_steps_from_a_potential_go_on_where_it_was_found():
    scores = random_scores(3, 9, 4)
    _, halfway = sinkhorn(scores, 5)
    torch.testing.assert_close(sinkhorn(scores, 5, halfway), sinkhorn(scores, 10))


def test_scores_as_sharp_as_float32_can_tell_apart_are_assigned():
    scores = 1e4 * torch.randn(3, 16, 8)
    scores[:, :, 3] -= 1e6  # nobody wants this block
    shares, potential = sinkhorn(scores, 50)
    assert shares.isfinite().all() and potential.isfinite().all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, 16))


@every_size
def test_a_rounded_assignment_keeps_to_the_capacities(rows, columns):
    for sharpness in (0.0, 1.0, 30.0):
        blocks = round_assignment((sharpness * random_scores(50, 3, rows, columns)).softmax(-1))
        counts = (blocks.unsqueeze(-1) == torch.arange(columns)).sum(-2)
        assert blocks.shape == (50, 3, rows) and blocks.min() >= 0
        assert counts.sum(-1).eq(rows).all() and counts.max() <= -(-rows // columns)


def test_rows_that_are_surest_are_served_first_and_the_others_fill_what_is_left():
    shares = torch.tensor([[0.5, 0.4, 0.1], [0.8, 0.1, 0.1], [0.6, 0.2, 0.2]])  # all want the first column
    assert round_assignment(shares).tolist() == [2, 0, 1]
    pairs = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2], [0.4, 0.6]])
    assert round_assignment(pairs).tolist() == [0, 1, 0, 1]


def test_an_assignment_that_fits_is_only_rounded_and_rows_may_come_in_any_order():
    best = torch.stack([torch.randperm(8) for _ in range(20)])
    fitting = (3 * torch.nn.functional.one_hot(best, 8) + torch.rand(20, 8, 8)).softmax(-1)
    assert torch.equal(round_assignment(fitting), best)
    crowded, order = random_scores(20, 9, 4).softmax(-1), torch.randperm(9)
    assert torch.equal(round_assignment(crowded[:, order]), round_assignment(crowded)[:, order])
