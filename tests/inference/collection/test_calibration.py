"""Ranking and calibration: features by hand, and probabilities that are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from inference.collection.calibration import _INDEPENDENT, Calibration, Sample, calibration_cues, shares_of
from inference.collection.ranking import Ranking

DIMENSIONS, EXCESS = 100, 0.7


def ranking(errors, own=0.1):
    errors = torch.as_tensor(errors)
    slots = torch.arange(errors.shape[1]).expand(errors.shape)
    each = [torch.full(errors.shape[:1], value) for value in (own, EXCESS, float(DIMENSIONS))]
    return Ranking(slots, errors, torch.ones_like(slots, dtype=torch.bool), *each)


def test_nats_are_differences_of_profile_likelihoods():
    """-(D / 2) ln e is ln N(x; m, e I) at its largest over the variance, up to a constant."""
    errors = [0.02, 0.05, 0.3]

    def likelihood(error):
        return max(
            -DIMENSIONS / 2 * math.log(2 * math.pi * v) - DIMENSIONS * error / (2 * v)
            for v in torch.logspace(-3, 0, 3001).tolist()
        )

    expected = [likelihood(errors[0]) - likelihood(error) for error in errors]
    assert ranking([errors]).nats()[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_features_of_few_candidates_use_the_last_one():
    few = ranking([[0.02, 0.05, math.inf]]).features()[0]
    nats = DIMENSIONS / 2 * math.log(0.05 / 0.02)
    first = [math.log(0.02), math.log(0.1), EXCESS, *[math.log1p(nats)] * 3]
    assert few[:6].tolist() == pytest.approx(first, rel=1e-5)
    products = [first[i] * first[j] for i in range(6) for j in range(i, 6)]
    assert few[6:].tolist() == pytest.approx(products, rel=1e-5)


def test_shares_sum_to_one_and_candidates_that_are_none_have_none():
    shares = shares_of(ranking([[0.02, 0.021, math.inf]]))[0]
    odds = (0.021 / 0.02) ** (_INDEPENDENT * DIMENSIONS / 2)
    assert shares.tolist() == pytest.approx([odds / (1 + odds), 1 / (1 + odds), 0.0])


def leads(mean: float, generator: torch.Generator, count: int = 20_000) -> tuple[Ranking, torch.Tensor]:
    """Candidates, of which the best leads by exponentially distributed nats; and these nats."""
    lead = -mean * torch.rand(count, generator=generator).log()
    second = 0.02 * (lead * 2 / DIMENSIONS).exp()
    return ranking(torch.stack([torch.full_like(second, 0.02), second], -1)), lead


def test_the_fit_recovers_known_probabilities():
    """Of exponential leads with different means, the odds are known; and so is how often the best is drawn right."""
    generator, means = torch.Generator().manual_seed(0), (20.0, 5.0)
    (written, lead), (left_out, _) = (leads(mean, generator) for mean in means)
    right = (lead / 4 - 1).sigmoid()
    wrong = torch.rand(len(lead), generator=generator) > right
    own = torch.where(wrong, torch.arange(len(lead)) + 2, 0)  # 0: the best candidate; the others are no candidates
    fitted = Calibration.fit(written, own, left_out, len(lead))
    shares, probability = fitted.probabilities(written)
    log_odds = math.log(means[1] / means[0]) + lead * (1 / means[1] - 1 / means[0])
    assert (probability - log_odds.sigmoid()).abs().mean() < 0.02
    assert (shares[:, 0] - log_odds.sigmoid() * right).abs().mean() < 0.02
    other = torch.minimum(probability - shares[:, 0], shares[:, 0])  # the only other candidate; never above the best
    torch.testing.assert_close(shares[:, 1], other)


def test_a_fit_of_cues_that_are_all_right_is_near_certain_and_finite():
    generator = torch.Generator().manual_seed(0)
    (written, _), (left_out, _) = (leads(mean, generator, 50) for mean in (20.0, 5.0))
    fitted = Calibration.fit(written, torch.zeros(50, dtype=torch.long), left_out, 50)
    right = fitted.right.probability(written.features())
    assert (right > 0.9).all() and (right < 1).all()


def test_candidates_of_equal_content_share_what_one_of_them_has():
    generator = torch.Generator().manual_seed(0)
    (written, _), (left_out, _) = (leads(mean, generator, 500) for mean in (20.0, 5.0))
    fitted = Calibration.fit(written, torch.zeros(500, dtype=torch.long), left_out, 500)
    alone = ranking([[0.02, 0.03, math.inf, math.inf]])
    heads = torch.tensor([[True, False, False, True]])
    copied = replace(ranking([[0.02, 0.02, 0.02, 0.03]]), heads=heads)
    (one, of_one), (three, of_three) = fitted.probabilities(alone), fitted.probabilities(copied)
    torch.testing.assert_close(of_one, of_three)
    torch.testing.assert_close(three[0], torch.stack([one[0, 0] / 3] * 3 + [one[0, 1]]))


def test_calibration_cues_leave_every_twenty_first_image_as_it_is_and_hide_what_is_hidden():
    images = torch.rand(63, 1, 8, 8)
    cues = calibration_cues(images)
    same = (cues.images == images).flatten(1).all(1)
    kinds = 21  # 17 corruptions with their strengths, 3 of them also with unknown holes, and none
    assert same[kinds - 1 :: kinds].all() and not same[: kinds - 1].any()
    assert (cues.images[cues.hidden] == 0).all() and cues.hidden.flatten(1).any(1).sum() == 9
    assert torch.equal(calibration_cues(images).images, cues.images)


def test_every_image_is_as_likely_to_be_in_the_sample(monkeypatch):
    monkeypatch.setattr("inference.collection.calibration._MOST_IMAGES", 8)
    kept = torch.zeros(40)
    for seed in range(500):
        sample = Sample(seed)
        for first in range(0, 40, 5):
            sample.add([str(number) for number in range(first, first + 5)], torch.zeros(5, 1, 2, 2))
            sample = Sample(seed, sample.images, sample.seen)  # as after a load
        kept[[int(name) for name in sample.images]] += 1
    assert kept.sum() == 500 * 8
    assert ((kept / 500 - 8 / 40).abs() < 4.5 * (0.2 * 0.8 / 500) ** 0.5).all()
